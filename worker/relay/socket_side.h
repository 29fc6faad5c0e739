// The side of a relay that is a connection: accepted, or dialled (attach() comes later then).
#pragma once

#include <memory>

#include "worker/relay/relay.h"
#include "worker/relay/wire.h"

namespace ebb::relay {

class SocketSide : public Side, protected WireObserver {
 public:
  SocketSide(net::Loop& loop, BlockPool& blocks, layers::Stack stack);
  ~SocketSide() override = default;

  /// How a peer is treated once the other side is gone in both directions and he has been told the end.
  struct Parting {
    Duration linger = std::chrono::seconds(2);         // for his own end
    std::size_t takes = static_cast<std::size_t>(-1);  // bytes he may go on sending, thrown away; then a reset
  };
  void set_parting(Parting parting) { parting_ = parting; }
  /// Starts on a connected stream; `unread`: read earlier, not yet opened.
  void attach(std::unique_ptr<net::Stream> stream, Bytes unread = {});

  void send(ConstSpan piece) override { wire_.send(piece); }
  void flush() override { wire_.flush(); }
  void send_end() override { wire_.send_end(); }
  void abort(const Error& why) override;
  void wind_down() override;
  std::size_t room() override { return wire_.has_room() ? kEverything : 0; }
  std::size_t queued() const override { return wire_.queued(); }
  std::uint64_t delivered() const override { return wire_.taken(); }
  void resume() override { wire_.read_now(); }
  void close() override { wire_.close(); }

 protected:
  std::size_t may_read() override { return relay_->may_read(*this); }
  void on_plain(MutSpan bytes) override { relay_->on_data(*this, bytes); }
  void on_batch_end() override { relay_->on_batch_end(*this); }
  void on_wire_end() override;
  void on_wire_failed(Error why) override { relay_->on_failed(*this, why); }
  void on_wire_room() override { relay_->on_room(*this); }
  void on_wire_progress() override { relay_->on_progress(*this); }
  void on_wire_sent_all() override;

  Wire wire_;

 private:
  void after_all_sent();

  Parting parting_;
  bool winding_ = false;
  bool sent_all_ = false;
  net::Timer linger_;  // the peer may take so long to close after our end; then we close
};

}  // namespace ebb::relay
