#include "tests/support/memory_stream.h"

#include <algorithm>
#include <cerrno>

namespace ebb::test {

using net::IoResult;

std::pair<std::unique_ptr<MemoryStream>, std::unique_ptr<MemoryStream>> MemoryStream::pair(net::Loop& loop,
                                                                                           MemoryFaults first,
                                                                                           MemoryFaults second) {
  std::unique_ptr<MemoryStream> a(new MemoryStream(loop));
  std::unique_ptr<MemoryStream> b(new MemoryStream(loop));
  a->faults = first;
  b->faults = second;
  a->other_ = b.get();
  b->other_ = a.get();
  a->make_ready_for_write();
  b->make_ready_for_write();
  return {std::move(a), std::move(b)};
}

MemoryStream::~MemoryStream() {
  if (other_ == nullptr) return;
  MemoryStream& peer = *std::exchange(other_, nullptr);
  peer.other_ = nullptr;
  // As TCP: closing with unread bytes resets, else the peer reads our end and learns of the rest when it writes.
  if (!inbox_.empty()) {
    peer.fail(ECONNRESET);
  } else {
    peer.ended_ = true;
    peer.set_ready(kRead | kWrite);
  }
}

void MemoryStream::unblock(void* self) {
  auto& stream = *static_cast<MemoryStream*>(self);
  stream.set_ready(kRead | kWrite);  // a spurious one is legal: the next call says would_block
}

bool MemoryStream::block_now() {
  if (faults.block_every == 0 || ++calls_ % faults.block_every != 0) return false;
  loop().defer(unblock_);
  return true;
}

void MemoryStream::fail(int error) {
  if (error_ != 0) return;
  error_ = error;
  inbox_.clear();
  set_ready(kRead | kWrite);
}

IoResult MemoryStream::read(MutSpan into) {
  if (error_ != 0) return {IoResult::Kind::error, 0, error_};
  if (block_now()) {
    clear_ready(kRead);
    return {IoResult::Kind::would_block, 0, 0};
  }
  if (bytes_read >= faults.reset_after) {
    if (other_ != nullptr) other_->fail(ECONNRESET);
    fail(ECONNRESET);
    return {IoResult::Kind::error, 0, ECONNRESET};
  }
  if (bytes_read >= faults.end_after) return {IoResult::Kind::end, 0, 0};
  if (inbox_.empty()) {
    if (ended_) return {IoResult::Kind::end, 0, 0};
    clear_ready(kRead);
    return {IoResult::Kind::would_block, 0, 0};
  }
  const std::size_t limit = std::min(faults.reset_after, faults.end_after) - bytes_read;
  const std::size_t n = std::min({into.size(), inbox_.size(), faults.max_read, limit});
  std::copy_n(inbox_.begin(), n, into.begin());
  inbox_.erase(inbox_.begin(), inbox_.begin() + static_cast<std::ptrdiff_t>(n));
  bytes_read += n;
  if (other_ != nullptr && inbox_.size() < other_->faults.capacity) other_->make_ready_for_write();
  return {IoResult::Kind::ok, n, 0};
}

IoResult MemoryStream::write(std::span<const iovec> pieces) {
  if (error_ != 0) return {IoResult::Kind::error, 0, error_};
  if (shut_ || other_ == nullptr || other_->error_ != 0) return {IoResult::Kind::error, 0, EPIPE};
  const std::size_t used = other_->inbox_.size();
  std::size_t room = std::min(faults.capacity - std::min(faults.capacity, used), faults.max_write);
  if (room == 0 || block_now()) {
    clear_ready(kWrite);
    return {IoResult::Kind::would_block, 0, 0};
  }
  std::size_t written = 0;
  for (const iovec& piece : pieces) {
    const auto* from = static_cast<const std::uint8_t*>(piece.iov_base);
    const std::size_t n = std::min(piece.iov_len, room);
    other_->inbox_.insert(other_->inbox_.end(), from, from + n);
    written += n;
    room -= n;
  }
  bytes_written += written;
  if (written > 0) other_->make_ready_for_read();
  return {IoResult::Kind::ok, written, 0};
}

void MemoryStream::shutdown_write() {
  if (shut_ || error_ != 0) return;
  shut_ = true;
  if (other_ == nullptr) return;
  other_->ended_ = true;
  other_->make_ready_for_read();
}

void MemoryStream::reset() {
  if (other_ != nullptr) other_->fail(ECONNRESET);
  fail(EBADF);
}

void MemoryStream::put(ConstSpan bytes) {
  if (other_ == nullptr || shut_ || error_ != 0) return;
  other_->inbox_.insert(other_->inbox_.end(), bytes.begin(), bytes.end());
  other_->make_ready_for_read();
}

Bytes MemoryStream::take() {
  Bytes out(inbox_.begin(), inbox_.end());
  inbox_.clear();
  bytes_read += out.size();
  if (other_ != nullptr) other_->make_ready_for_write();
  return out;
}

}  // namespace ebb::test
