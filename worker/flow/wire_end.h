// The end of a flow that is a connection of a protocol with datagrams in it: accepted, or dialled.
#pragma once

#include <memory>
#include <optional>

#include "common/net/dial.h"
#include "worker/flow/flow.h"
#include "worker/relay/wire.h"

namespace ebb::flow {

class WireEnd : public DatagramEnd, private relay::WireObserver {
 public:
  static constexpr std::size_t kMostUnsent = 256 << 10;  // bytes; a datagram above is dropped

  /// The topmost layer gives one datagram at a time, and takes one.
  WireEnd(net::Loop& loop, relay::BlockPool& blocks, layers::Stack stack);
  ~WireEnd() override;

  /// Accepted: a stream, and what was read from it and not yet opened. After Flows::start().
  void attach(std::unique_ptr<net::Stream> stream, Bytes unread = {});
  /// The connection has to be made first; what is sent meanwhile waits for it.
  void dial(net::UvLoop& loop, net::DialPlan plan);

  bool send(ConstSpan datagram, const Target* address) override;
  void close() override;

 private:
  // WireObserver
  void on_plain(MutSpan datagram) override;
  void on_batch_end() override {}
  void on_wire_end() override;
  void on_wire_failed(Error why) override;
  void on_wire_room() override {}

  std::size_t max_datagram_;
  relay::Wire wire_;
  std::optional<net::Dial> dial_;
};

}  // namespace ebb::flow
