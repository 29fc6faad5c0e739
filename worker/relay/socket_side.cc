#include "worker/relay/socket_side.h"

namespace ebb::relay {

SocketSide::SocketSide(net::Loop& loop, BlockPool& blocks, layers::Stack stack)
    : wire_(loop, blocks, std::move(stack)),
      linger_(
          [](void* self) {
            auto* side = static_cast<SocketSide*>(self);
            side->relay_->on_wound_down(*side);
          },
          this) {
  wire_.observe(this);
}

void SocketSide::attach(std::unique_ptr<net::Stream> stream, Bytes unread) {
  wire_.attach(std::move(stream), std::move(unread));
}

void SocketSide::abort(const Error&) {
  linger_.disarm();
  wire_.reset();
}

void SocketSide::wind_down() {
  winding_ = true;
  wire_.discard_input(parting_.takes);
  wire_.send_end();
  if (sent_all_) after_all_sent();  // it went out before: send_end() had nothing to tell
}

void SocketSide::on_wire_end() {
  if (!winding_) return relay_->on_end(*this, false);
  if (sent_all_) relay_->on_wound_down(*this);
}

void SocketSide::on_wire_sent_all() {
  sent_all_ = true;
  if (winding_) after_all_sent();
}

void SocketSide::after_all_sent() {
  // Closing with unread bytes in the socket would reset the peer and may destroy our last bytes on their way:
  // wait for his end first, but not for ever.
  if (wire_.ended()) return relay_->on_wound_down(*this);
  wire_.loop().arm(linger_, parting_.linger);
}

}  // namespace ebb::relay
