// What a stream of a tunnel belongs to: the side of a relay (MuxSide), or the end of a flow (worker/flow).
#pragma once

#include "common/base/address.h"
#include "common/base/bytes.h"
#include "common/reverse/abort_reason.h"

namespace ebb::tunnel {

/// The user pointer of every stream is one of these, or null. Payload is valid during the call.
class StreamUser {
 public:
  virtual void on_stream_data(ConstSpan payload) = 0;
  /// A UDP stream's message. `address`: the packet's own, where the peer wrote one, else null.
  virtual void on_stream_datagram(const Target* address, ConstSpan datagram) = 0;
  /// The stream is over and its id forgotten: nothing may be sent on it any more. `why`: what the peer says of an
  /// error; null: nothing.
  virtual void on_stream_end(bool error, const reverse::Abort* why) = 0;
  /// Half-close was agreed and the peer sends no more. Where we had said the same, the id is forgotten.
  virtual void on_stream_fin() {}
  /// The peer takes more than nothing again.
  virtual void on_stream_credit() {}
  /// Tunnel::tell_progress(): all that was sent until then has gone out.
  virtual void on_stream_sent() {}
  /// Tunnel::end_later(): the time is over.
  virtual void on_end_due() {}

 protected:
  ~StreamUser() = default;
};

}  // namespace ebb::tunnel
