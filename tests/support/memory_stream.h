// Two Streams joined back to back in memory, with the faults a network has: small buffers, short reads and writes,
// would_block at awkward moments, resets, and an end of stream at a chosen byte.
#pragma once

#include <cstddef>
#include <deque>
#include <limits>
#include <memory>
#include <string_view>
#include <utility>

#include "common/net/stream.h"

namespace ebb::test {

struct MemoryFaults {
  static constexpr std::size_t kNever = std::numeric_limits<std::size_t>::max();
  std::size_t capacity = 256 * 1024;  // bytes in flight towards the peer before write() would block
  std::size_t max_read = kNever;      // bytes one read() brings
  std::size_t max_write = kNever;     // bytes one write() takes
  unsigned block_every = 0;           // each n-th read and write would block once, then is ready again
  std::size_t reset_after = kNever;   // this many bytes read: then both ends are reset
  std::size_t end_after = kNever;     // this many bytes read: then end of stream
};

class MemoryStream final : public net::Stream {
 public:
  /// Faults of the first and of the second end. Either may be destroyed first: the other then reads end of stream, or
  /// a reset when unread bytes were thrown away, and its writes fail with EPIPE.
  static std::pair<std::unique_ptr<MemoryStream>, std::unique_ptr<MemoryStream>> pair(net::Loop& loop,
                                                                                      MemoryFaults first = {},
                                                                                      MemoryFaults second = {});
  ~MemoryStream() override;

  net::IoResult read(MutSpan into) override;
  net::IoResult write(std::span<const iovec> pieces) override;
  void shutdown_write() override;
  void reset() override;
  std::optional<Endpoint> peer() const override { return peer_address; }
  std::size_t undelivered() const override { return other_ != nullptr ? other_->inbox_.size() : 0; }

  /// For the test's own end. put(): writes all of it past capacity and faults. take(): all that has arrived.
  void put(ConstSpan bytes);
  void put(std::string_view text) { put(as_bytes(text)); }
  Bytes take();
  std::size_t waiting() const { return inbox_.size(); }
  bool ended() const { return ended_; }           // the peer ended its direction (bytes may still be waiting)
  bool was_reset() const { return error_ != 0; }  // by either side

  MemoryFaults faults;
  std::optional<Endpoint> peer_address;
  std::size_t bytes_read = 0;
  std::size_t bytes_written = 0;

 private:
  explicit MemoryStream(net::Loop& loop) : Stream(loop), unblock_(&MemoryStream::unblock, this) {}
  static void unblock(void* self);
  bool block_now();
  void make_ready_for_read() { set_ready(kRead); }
  void make_ready_for_write() { set_ready(kWrite); }
  void fail(int error);

  MemoryStream* other_ = nullptr;  // null once it was destroyed
  std::deque<std::uint8_t> inbox_;
  bool ended_ = false;
  bool shut_ = false;  // we ended our direction
  int error_ = 0;
  unsigned calls_ = 0;
  net::Deferred unblock_;
};

}  // namespace ebb::test
