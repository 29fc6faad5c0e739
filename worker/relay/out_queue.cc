#include "worker/relay/out_queue.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

namespace ebb::relay {

BlockPool::~BlockPool() {
  assert(in_use_ == 0);
  while (free_ != nullptr) delete std::exchange(free_, free_->next);
}

BlockPool::Block* BlockPool::take() {
  ++in_use_;
  if (over_limit() && watcher_ != nullptr) watcher_->on_over_limit();
  if (free_ == nullptr) return std::make_unique_for_overwrite<Block>().release();
  --kept_;
  Block* block = std::exchange(free_, free_->next);
  block->next = nullptr;
  block->begin = block->end = 0;
  return block;
}

void BlockPool::give(Block* block) {
  --in_use_;
  if (!waiters_.empty() && !over_limit()) tell_waiters();
  if (kept_ >= kKept) {
    delete block;
    return;
  }
  ++kept_;
  block->next = std::exchange(free_, block);
}

void BlockPool::set_limit(std::size_t bytes) {
  limit_ = bytes;
  if (!over_limit()) tell_waiters();
}

void BlockPool::tell_waiters() {
  for (Waiter* waiter : std::exchange(waiters_, {})) waiter->on_memory();
}

MutSpan OutQueue::room(std::size_t n) {
  assert(n <= BlockPool::kBlockBytes);
  if (tail_ == nullptr || BlockPool::kBlockBytes - tail_->end < n) {
    BlockPool::Block* block = pool_.take();
    block->next = nullptr;
    block->begin = block->end = 0;
    (tail_ != nullptr ? tail_->next : head_) = block;
    tail_ = block;
  }
  return MutSpan(tail_->bytes).subspan(tail_->end);
}

void OutQueue::commit(std::size_t n) {
  tail_->end += static_cast<std::uint32_t>(n);
  bytes_ += n;
  if (bytes_ == 0) clear();  // nothing came of the room: an idle connection keeps no block
}

void OutQueue::append(ConstSpan bytes) {
  while (!bytes.empty()) {
    const MutSpan to = room(1);
    const std::size_t n = std::min(to.size(), bytes.size());
    std::memcpy(to.data(), bytes.data(), n);
    commit(n);
    bytes = bytes.subspan(n);
  }
}

void OutQueue::clear() {
  while (head_ != nullptr) pool_.give(std::exchange(head_, head_->next));
  tail_ = nullptr;
  bytes_ = 0;
}

void OutQueue::drop_front(std::size_t n) {
  bytes_ -= n;
  while (n > 0) {
    const std::size_t here = std::min<std::size_t>(n, head_->end - head_->begin);
    head_->begin += static_cast<std::uint32_t>(here);
    n -= here;
    if (head_->begin != head_->end) break;
    if (head_ == tail_) tail_ = nullptr;
    pool_.give(std::exchange(head_, head_->next));
  }
  if (bytes_ == 0) clear();
}

net::IoResult OutQueue::write_to(net::Stream& stream) {
  while (bytes_ > 0) {
    std::array<iovec, 16> pieces;
    std::size_t count = 0;
    for (auto* block = head_; block != nullptr && count < pieces.size(); block = block->next) {
      pieces[count++] = {block->bytes + block->begin, block->end - block->begin};
    }
    const auto result = stream.write(std::span(pieces).first(count));
    if (result.kind == net::IoResult::Kind::would_block) break;
    if (result.kind != net::IoResult::Kind::ok) return result;
    drop_front(result.bytes);
  }
  return {};
}

}  // namespace ebb::relay
