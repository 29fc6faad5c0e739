// Bytes accepted for a stream and not yet written: a chain of pooled blocks.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/base/bytes.h"
#include "common/net/stream.h"
#include "worker/layers/stack.h"

namespace ebb::relay {

class Wire;

/// Fixed-size blocks; freed ones are kept for the next writer, up to a bound. One pool per loop.
class BlockPool {
 public:
  static constexpr std::size_t kBlockBytes = 66 * 1024;  // four sealed 16 KiB chunks
  static_assert(kBlockBytes >= layers::Stack::kMaxRoom);
  static constexpr std::size_t kKept = 32;  // free blocks held back, 2 MiB
  struct Block {
    Block* next = nullptr;
    std::uint32_t begin = 0;
    std::uint32_t end = 0;
    std::uint8_t bytes[kBlockBytes];
  };

  /// Is told whenever a block is taken beyond the limit.
  class Watcher {
   public:
    virtual void on_over_limit() = 0;

   protected:
    ~Watcher() = default;
  };
  /// Is told once, when the limit holds again: somewhere in somebody's write.
  class Waiter {
   public:
    virtual void on_memory() = 0;

   protected:
    ~Waiter() = default;
  };

  BlockPool() = default;
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool();
  Block* take();
  void give(Block* block);
  std::size_t bytes_in_use() const { return in_use_ * kBlockBytes; }
  /// What queues may hold in all (`limits.memory`): above, tunnels with slow consumers are not read, and nothing is
  /// read for a queue that holds anything. None by default.
  void set_limit(std::size_t bytes);
  std::size_t limit() const { return limit_; }
  void watch(Watcher* watcher) { watcher_ = watcher; }
  void wait(Waiter& waiter) { waiters_.push_back(&waiter); }
  void forget(Waiter& waiter) { std::erase(waiters_, &waiter); }
  bool over_limit() const { return bytes_in_use() > limit_; }

 private:
  friend class Wire;
  friend class Shortage;
  void tell_waiters();

  Block* free_ = nullptr;
  std::size_t kept_ = 0;
  std::size_t in_use_ = 0;
  std::size_t limit_ = static_cast<std::size_t>(-1);
  Watcher* watcher_ = nullptr;
  std::vector<Waiter*> waiters_;
  Wire* wires_ = nullptr;  // all that may hold blocks
};

class OutQueue final : public layers::Outlet {
 public:
  explicit OutQueue(BlockPool& pool) : pool_(pool) {}
  OutQueue(const OutQueue&) = delete;
  OutQueue& operator=(const OutQueue&) = delete;
  ~OutQueue() { clear(); }

  std::size_t bytes() const { return bytes_; }
  bool empty() const { return bytes_ == 0; }
  /// Somebody is slow here while the process holds its limit: it should not become longer. An empty one may, so that
  /// who takes what he is sent is served on.
  bool pressed() const { return bytes_ > 0 && pool_.over_limit(); }
  /// At the tail; n at most BlockPool::kBlockBytes.
  MutSpan room(std::size_t n) override;
  void commit(std::size_t n) override;
  void append(ConstSpan bytes);
  void clear();
  /// Writes as much as the stream takes. `ok` when all went out or the stream would block, else the stream's answer.
  net::IoResult write_to(net::Stream& stream);

 private:
  void drop_front(std::size_t n);

  BlockPool& pool_;
  BlockPool::Block* head_ = nullptr;
  BlockPool::Block* tail_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace ebb::relay
