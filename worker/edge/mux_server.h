// A forward-mux connection (`"mux": {"enabled": true}` at the client): the acceptor's end of a Mux.cool connection
// whose streams are routed one by one. Source: common/protocol/mux/PROTOCOL.md.
#pragma once

#include <memory>

#include "common/reverse/forward_mux.h"
#include "worker/edge/edge.h"
#include "worker/tunnel/link.h"

namespace ebb::edge {

class MuxServer final : public tunnel::Link<reverse::ForwardMux> {
 public:
  MuxServer(Edge& edge, const Request& request, layers::Stack stack);
  void start(std::unique_ptr<net::Stream> stream, Bytes unread);
  bool ended() const { return dead(); }
  const Request& request() const { return request_; }
  /// The worker drains: the connection ends in order once it has no stream, not before `when`, and not while the client
  /// has just spoken. Streams that come meanwhile are served.
  void drain(TimePoint when);

 private:
  void on_tunnel_moved() override;
  bool expendable() const override { return true; }
  void on_tunnel_over(const Error& why) override;
  void on_stream_opened(StreamId stream, const Target& target, ConstSpan trailing) override;
  void refuse_for_want_of_room(StreamId stream);

  Edge& edge_;
  Request request_;
  bool warned_ = false;
  std::uint64_t reopened_ = 0;  // as counted already
  std::uint64_t surplus_ = 0;
};

}  // namespace ebb::edge
