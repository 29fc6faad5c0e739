// The acceptor's end of a forward-mux connection (`"mux": {"enabled": true}` at a client): streams, and the two reasons
// for which it ends by itself. Sans-IO.
#pragma once

#include <optional>

#include "common/reverse/engine.h"

namespace ebb::reverse {

class ForwardMux final : public Engine {
 public:
  static constexpr std::size_t kMaxStreams = 1024;  // live at once; stock clients open 8 by default, 1024 at most

  /// Ends after `idle` without bytes and streams; streams have idle timers of their own.
  ForwardMux(Duration idle, TimePoint now);

  /// The process drains: it ends once it has no stream, not before `when`, and not while the client has just spoken.
  /// Streams that come meanwhile are served.
  void leave_at(TimePoint when) { leave_at_ = when; }
  const mux::Session& session() const { return session_; }

  // Engine
  Decoded<> feed(ConstSpan in, TimePoint now, mux::SessionEvents& events) override;
  void tick(TimePoint now) override;
  TimePoint next_deadline() const override;
  Bytes take_output() override { return session_.take_output(); }
  bool has_output() const override { return session_.has_output(); }
  bool dead() const override { return over_; }
  TunnelEnd end() const override { return TunnelEnd::idle; }
  Violations violations() const override { return Violations::of(session_.counters()); }
  void set_user(StreamId stream, void* user) override { session_.set_user(stream, user); }
  void* user(StreamId stream) const override { return session_.user(stream); }
  void close(StreamId stream, TimePoint now) override;
  void abort_streams(mux::SessionEvents& events) override;
  SendLimits send_limits() const override { return {}; }

 private:
  TimePoint leaving_at() const;

  mux::Session session_;
  Duration idle_;
  TimePoint last_active_;
  std::optional<TimePoint> leave_at_;
  bool over_ = false;
};

}  // namespace ebb::reverse
