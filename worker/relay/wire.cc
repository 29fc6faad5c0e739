#include "worker/relay/wire.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace ebb::relay {
namespace {

constexpr std::size_t kMaxPending = 64;
constexpr std::size_t kMaxParts = 16;

Error broken(const char* what, int error) {
  return Error{error == ECONNRESET || error == EPIPE ? Errc::closed : Errc::os,
               std::string(what) + ": " + std::strerror(error),
               {}};
}

}  // namespace

Wire::Wire(net::Loop& loop, BlockPool& blocks, std::unique_ptr<Codec> codec)
    : loop_(loop),
      codec_(std::move(codec)),
      queue_(blocks),
      flush_later_([](void* self) { static_cast<Wire*>(self)->later(); }, this) {}

Wire::~Wire() { close(); }

void Wire::attach(std::unique_ptr<net::Stream> stream, Bytes unread) {
  stream_ = std::move(stream);
  leftover_ = std::move(unread);
  unread_ = !leftover_.empty();
  stream_->observe(this);
  start_codec();
  watch();
  loop_.defer(flush_later_);
}

/// What has to go out first does so even when nothing follows but the end.
void Wire::start_codec() {
  if (!codec_ || std::exchange(started_, true)) return;
  const MutSpan out = queue_.room(codec_->max_overhead());
  queue_.commit(codec_->seal_start(out));
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
  if (!discard_ && observer_ != nullptr && !observer_->may_read()) return set_reading(false);
  unread_ = false;
  const Bytes kept = std::exchange(leftover_, {});
  if (discard_) return;
  const MutSpan data = loop_.read_buffer().first(kept.size());
  std::memcpy(data.data(), kept.data(), kept.size());
  take(data);
}

bool Wire::has_room() const {
  if (queue_.bytes() < (stream_ ? kHigh : kDialling)) return true;
  const_cast<Wire*>(this)->told_no_room_ = true;
  return false;
}

void Wire::send(std::span<const ConstSpan> parts) {
  if (failed_ || end_wanted_) return;
  if (!codec_) {
    for (const ConstSpan part : parts) {
      if (part.empty()) continue;
      pending_.push_back({const_cast<std::uint8_t*>(part.data()), part.size()});
      if (pending_.size() >= kMaxPending) flush();
    }
    return;
  }
  start_codec();
  const std::size_t max = codec_->max_payload();
  std::array<ConstSpan, kMaxParts> chunk;
  std::size_t count = 0;
  std::size_t bytes = 0;
  const auto seal = [&] {
    const MutSpan out = queue_.room(bytes + codec_->max_overhead());
    queue_.commit(codec_->seal(std::span(chunk).first(count), out));
    count = bytes = 0;
  };
  for (ConstSpan part : parts) {
    while (!part.empty()) {
      const ConstSpan piece = part.first(std::min(part.size(), max - bytes));
      chunk[count++] = piece;
      bytes += piece.size();
      part = part.subspan(piece.size());
      if (bytes == max || count == kMaxParts) seal();
    }
  }
  if (count > 0) seal();
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
  after_write();
}

void Wire::after_write() {
  if (queue_.empty() && end_wanted_ && !end_sent_) {
    end_sent_ = true;
    if (!codec_) stream_->shutdown_write();
    if (observer_ != nullptr) observer_->on_wire_sent_all();
    if (failed_ || !stream_) return;
  }
  watch();
}

void Wire::on_writable() {
  write_out();
  if (failed_ || !told_no_room_ || queue_.bytes() > kLow) return;
  told_no_room_ = false;
  watch();
  if (observer_ != nullptr) observer_->on_wire_room();
}

void Wire::send_end() {
  if (end_wanted_ || failed_) return;
  if (codec_) {
    start_codec();
    const MutSpan out = queue_.room(codec_->max_overhead());
    queue_.commit(codec_->seal_end(out));
  }
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

void Wire::discard_input() {
  discard_ = true;
  leftover_ = {};
  unread_ = false;
  set_reading(true);
}

void Wire::on_readable() {
  if (unread_) take_unread();
  if (failed_ || ended_ || !reading_) return;
  if (!discard_ && observer_ != nullptr && !observer_->may_read()) return set_reading(false);
  const MutSpan buffer = loop_.read_buffer();
  const std::size_t kept = leftover_.size();
  const auto result = stream_->read(buffer.subspan(net::Loop::kFrontRoom, read_bytes_));
  switch (result.kind) {
    case net::IoResult::Kind::would_block: return;
    case net::IoResult::Kind::error: return fail(broken("read", result.error));
    case net::IoResult::Kind::end:
      ended_ = true;
      watch();
      if (!discard_ && (kept > 0 || (codec_ && !codec_->eof_is_clean()))) {
        return fail(Error{Errc::closed, "connection ended inside a message", {}});
      }
      if (observer_ != nullptr) observer_->on_wire_end();
      return;
    case net::IoResult::Kind::ok: break;
  }
  received_ += result.bytes;
  if (discard_) return;
  // A chunk cut by the end of the last read goes in front of this one, so that chunks are always contiguous.
  if (kept > 0) std::memcpy(buffer.data() + net::Loop::kFrontRoom - kept, leftover_.data(), kept);
  leftover_.clear();
  take(buffer.subspan(net::Loop::kFrontRoom - kept, kept + result.bytes));
}

void Wire::take(MutSpan data) {
  bool end = false;
  if (!codec_) {
    if (observer_ != nullptr) observer_->on_plain(data);
    data = {};
  }
  while (!data.empty() && !end && !failed_ && observer_ != nullptr) {
    const auto opened = codec_->open(data);
    if (!opened) {
      if (observer_ != nullptr) observer_->on_batch_end();
      return fail(explain(opened.error()));
    }
    if (!opened->plain.empty()) observer_->on_plain(opened->plain);
    end = opened->end;
    if (opened->used == 0) break;
    data = data.subspan(opened->used);
  }
  if (failed_) return;
  if (!data.empty() && !end) {
    leftover_.assign(data.begin(), data.end());
  } else if (leftover_.capacity() > 0 && leftover_.empty()) {
    leftover_ = {};  // idle connections own no buffer
  }
  if (observer_ != nullptr) observer_->on_batch_end();
  if (end && !failed_) {
    ended_ = true;
    watch();
    if (observer_ != nullptr) observer_->on_wire_end();
  }
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
