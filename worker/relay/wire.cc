#include "worker/relay/wire.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace ebb::relay {
namespace {

constexpr std::size_t kMaxPending = 64;

Error broken(const char* what, int error) {
  return Error{error == ECONNRESET || error == EPIPE ? Errc::closed : Errc::os,
               std::string(what) + ": " + std::strerror(error),
               {}};
}

}  // namespace

Wire::Wire(net::Loop& loop, BlockPool& blocks, layers::Stack stack)
    : loop_(loop),
      blocks_(blocks),
      next_(blocks.wires_),
      stack_(std::move(stack)),
      queue_(blocks),
      flush_later_([](void* self) { static_cast<Wire*>(self)->later(); }, this) {
  if (next_ != nullptr) next_->prev_ = this;
  blocks_.wires_ = this;
}

Wire::~Wire() {
  close();
  (prev_ != nullptr ? prev_->next_ : blocks_.wires_) = next_;
  if (next_ != nullptr) next_->prev_ = prev_;
}

void Wire::attach(std::unique_ptr<net::Stream> stream, Bytes unread) {
  stream_ = std::move(stream);
  leftover_ = std::move(unread);
  unread_ = !leftover_.empty() || stack_.has_unread();
  stream_->observe(this);
  speak();  // what has to go out first does so even when nothing follows but the end
  watch();
  loop_.defer(flush_later_);
}

/// Lets the layers say what they owe, unless the peer lets it pile up: then it waits for room.
void Wire::speak() {
  if (failed_ || end_wanted_ || queue_.bytes() >= kHigh) return;
  const std::size_t before = queue_.bytes();
  stack_.speak(queue_);
  if (queue_.bytes() != before) loop_.defer(flush_later_);
}

void Wire::watch() {
  if (stream_ && !failed_) stream_->watch(reading_ && !ended_, !queue_.empty() || told_no_room_);
}

void Wire::later() {
  if (unread_) take_unread();
  flush();
}

void Wire::take_unread() {
  if (failed_ || ended_ || !reading_ || !stream_) return;
  if (!discard_ && observer_ != nullptr && observer_->may_read() == 0) return set_reading(false);
  unread_ = false;
  const Bytes kept = std::exchange(leftover_, {});
  if (discard_) return;
  const MutSpan buffer = loop_.read_buffer().first(net::Loop::kFrontRoom + kept.size());
  if (!kept.empty()) std::memcpy(buffer.data() + net::Loop::kFrontRoom, kept.data(), kept.size());
  take(buffer, net::Loop::kFrontRoom);
}

bool Wire::has_room() const {
  if (queue_.bytes() < (stream_ ? kHigh : kDialling) && !queue_.pressed()) return true;
  const_cast<Wire*>(this)->told_no_room_ = true;
  return false;
}

void Wire::send(std::span<const ConstSpan> parts) {
  if (failed_ || end_wanted_) return;
  if (stack_.empty()) {
    for (const ConstSpan part : parts) {
      if (part.empty()) continue;
      pending_.push_back({const_cast<std::uint8_t*>(part.data()), part.size()});
      if (pending_.size() >= kMaxPending) flush();
    }
    return;
  }
  stack_.seal(parts, queue_);
  loop_.defer(flush_later_);
}

void Wire::flush() {
  if (failed_) return;
  flush_later_.cancel();
  if (!pending_.empty() && stream_ && queue_.empty()) {
    std::span<iovec> rest(pending_);
    while (!rest.empty()) {
      const auto result = stream_->write(rest);
      if (result.kind == net::IoResult::Kind::would_block) break;
      if (result.kind != net::IoResult::Kind::ok) {
        pending_.clear();
        return fail(broken("write", result.error));
      }
      written_ += result.bytes;
      std::size_t done = result.bytes;
      while (!rest.empty() && done >= rest.front().iov_len) {
        done -= rest.front().iov_len;
        rest = rest.subspan(1);
      }
      if (done > 0) {
        rest.front().iov_base = static_cast<std::uint8_t*>(rest.front().iov_base) + done;
        rest.front().iov_len -= done;
      }
    }
    pending_.erase(pending_.begin(), pending_.end() - static_cast<std::ptrdiff_t>(rest.size()));
  }
  // The consumer is slower than the producer and the bytes belong to the producer's buffer: these have to be copied.
  for (const iovec& piece : pending_) queue_.append({static_cast<std::uint8_t*>(piece.iov_base), piece.iov_len});
  pending_.clear();
  write_out();
}

void Wire::write_out() {
  if (!stream_ || failed_) return;
  const std::size_t before = queue_.bytes();
  const auto result = queue_.write_to(*stream_);
  if (result.kind != net::IoResult::Kind::ok) return fail(broken("write", result.error));
  written_ += before - queue_.bytes();
  if (before != queue_.bytes() && observer_ != nullptr) observer_->on_wire_progress();
  if (failed_ || !stream_) return;
  after_write();
}

void Wire::after_write() {
  if (queue_.empty() && end_wanted_ && !end_sent_) {
    end_sent_ = true;
    if (stack_.half_closes()) stream_->shutdown_write();
    if (observer_ != nullptr) observer_->on_wire_sent_all();
    if (failed_ || !stream_) return;
  }
  watch();
}

void Wire::on_writable() {
  write_out();
  speak();  // what had to wait for room
  if (failed_ || !told_no_room_ || queue_.bytes() > kLow) return;
  told_no_room_ = false;
  watch();
  if (observer_ != nullptr) observer_->on_wire_room();
}

void Wire::send_end() {
  if (end_wanted_ || failed_) return;
  stack_.seal_end(queue_);
  end_wanted_ = true;
  loop_.defer(flush_later_);
}

void Wire::set_reading(bool reading) {
  if (reading_ == reading) return;
  reading_ = reading;
  watch();
  if (reading_ && unread_) loop_.defer(flush_later_);
}

void Wire::read_now() {
  set_reading(true);
  if (unread_) return;
  if (stream_ && !failed_ && !ended_ && stream_->readable()) on_readable();
}

void Wire::discard_input(std::size_t at_most) {
  discard_ = true;
  discard_until_ = at_most > ~received_ ? ~std::uint64_t{0} : received_ + at_most;
  leftover_ = {};
  unread_ = false;
  set_reading(true);
}

void Wire::on_readable() {
  if (unread_) take_unread();
  if (failed_ || ended_ || !reading_) return;
  const std::size_t allowed = discard_ || observer_ == nullptr ? net::Loop::kReadBytes : observer_->may_read();
  if (allowed == 0) return set_reading(false);
  const MutSpan buffer = loop_.read_buffer();
  const auto result = stream_->read(buffer.subspan(net::Loop::kFrontRoom, std::min(net::Loop::kReadBytes, allowed)));
  switch (result.kind) {
    case net::IoResult::Kind::would_block: return;
    case net::IoResult::Kind::error: return fail(broken("read", result.error));
    case net::IoResult::Kind::end:
      ended_ = true;
      watch();
      if (!discard_ && !stack_.eof_is_clean()) {
        return fail(Error{Errc::closed, "connection ended inside a message", {}});
      }
      if (observer_ != nullptr) observer_->on_wire_end();
      return;
    case net::IoResult::Kind::ok: break;
  }
  received_ += result.bytes;
  if (discard_) {
    if (received_ > discard_until_) fail(Error{Errc::closed, "went on sending though nobody takes it", {}});
    return;
  }
  take(buffer.first(net::Loop::kFrontRoom + result.bytes), net::Loop::kFrontRoom);
}

void Wire::take(MutSpan buffer, std::size_t at) {
  bool end = false;
  if (stack_.empty()) {
    if (observer_ != nullptr) observer_->on_plain(buffer.subspan(at));
  } else {
    const auto opened = stack_.open(buffer, at, *this);
    if (!opened) {
      if (observer_ != nullptr) observer_->on_batch_end();
      return fail(explain(opened.error()));
    }
    end = *opened;
    speak();
  }
  if (failed_) return;
  if (observer_ != nullptr) observer_->on_batch_end();
  if (end && !failed_) {
    ended_ = true;
    watch();
    if (observer_ != nullptr) observer_->on_wire_end();
  }
}

bool Wire::on_plain(MutSpan bytes) {
  if (observer_ != nullptr) observer_->on_plain(bytes);
  return !failed_ && observer_ != nullptr;
}

void Wire::fail(Error why) {
  if (failed_) return;
  failed_ = true;
  pending_.clear();
  if (stream_) stream_->watch(false, false);
  if (observer_ != nullptr) observer_->on_wire_failed(std::move(why));
}

void Wire::reset() {
  observer_ = nullptr;
  failed_ = true;
  flush_later_.cancel();
  if (stream_) stream_->reset();
}

void Wire::give_up(Error why) {
  if (failed_) return;
  if (stream_) stream_->reset();
  fail(std::move(why));
}

std::unique_ptr<net::Stream> Wire::detach() {
  auto stream = std::move(stream_);
  close();
  if (stream) {
    stream->observe(nullptr);
    stream->watch(false, false);
  }
  return stream;
}

void Wire::close() {
  observer_ = nullptr;
  failed_ = true;
  flush_later_.cancel();
  stream_.reset();
  queue_.clear();
}

}  // namespace ebb::relay
