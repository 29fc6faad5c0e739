// The end of a flow that is a UDP stream of a tunnel: one frame is one datagram.
#pragma once

#include "worker/flow/flow.h"
#include "worker/tunnel/tunnel.h"

namespace ebb::flow {

class MuxEnd final : public DatagramEnd, private tunnel::StreamUser {
 public:
  /// `stream` is open; its datagrams come here from now on, and are dropped until a flow has this end.
  MuxEnd(tunnel::Tunnel& tunnel, StreamId stream);
  ~MuxEnd() override;

  bool send(ConstSpan datagram, const Target* address) override;
  void close() override;

 private:
  // StreamUser
  void on_stream_data(ConstSpan payload) override;
  void on_stream_datagram(const Target* address, ConstSpan datagram) override;
  void on_stream_end(bool error, const reverse::Abort* why) override;

  tunnel::Tunnel* tunnel_;  // null once the stream is over
  StreamId stream_;
  bool tells_addresses_ = false;  // the peer wrote one, so it reads them, too (Xray's XUDP)
};

}  // namespace ebb::flow
