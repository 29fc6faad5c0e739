// A forward-mux connection (`"mux": {"enabled": true}` at the client): the acceptor's end of a Mux.cool connection
// whose streams are routed one by one. Source: spec/mux-cool.md 5.1, 9.
#pragma once

#include <list>
#include <memory>
#include <optional>

#include "common/protocol/mux/session.h"
#include "worker/edge/edge.h"
#include "worker/relay/tunnel.h"

namespace ebb::edge {

class MuxServer final : public relay::Tunnel {
 public:
  static constexpr std::size_t kMaxStreams = 1024;  // live at once; stock clients open 8 by default, 1024 at most

  MuxServer(Edge& edge, const Request& request, layers::Stack stack);
  ~MuxServer() override;
  void start(std::unique_ptr<net::Stream> stream, Bytes unread);
  void abort(const Error& why) { die(why); }
  bool ended() const { return dead(); }
  const Request& request() const { return request_; }
  /// The worker drains: the connection ends in order once it has no stream, not before `when`, and not while the client
  /// has just spoken. Streams that come meanwhile are served.
  void drain(TimePoint when);

 private:
  Decoded<> feed(ConstSpan plain) override;
  Bytes take_output() override { return session_.take_output(); }
  void tick() override;
  TimePoint next_deadline() const override;
  void forget(StreamId stream) override { session_.close(stream); }
  void set_user(StreamId stream, void* user) override { session_.set_user(stream, user); }
  void* user_of(StreamId stream) const override { return session_.user(stream); }
  reverse::HalfClose half_close(StreamId) const override { return reverse::HalfClose::none; }
  bool fin_sent(StreamId) override { return true; }  // never sent
  void hold(StreamId, bool) override {}
  void abort_streams() override;
  std::size_t max_data() const override { return mux::kMaxData; }
  void on_reading_changed(bool) override {}
  bool finished() const override { return idle_over_; }
  void on_tunnel_over(const Error& why) override;
  void on_open(StreamId stream, const Target& target, ConstSpan trailing) override;
  void refuse(StreamId stream);
  TimePoint leaving_at() const;

  Edge& edge_;
  Request request_;
  mux::Session session_;
  Duration idle_;
  TimePoint last_active_;
  std::optional<TimePoint> leave_at_;  // draining
  bool idle_over_ = false;
  bool warned_ = false;
};

}  // namespace ebb::edge
