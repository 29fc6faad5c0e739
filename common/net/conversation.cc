#include "common/net/conversation.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace ebb::net {
namespace {

std::unexpected<Error> broken(int error) {
  return std::unexpected(Error{Errc::closed, std::string("connection failed: ") + std::strerror(error), {}});
}

}  // namespace

Conversation::Conversation(std::unique_ptr<Stream> stream, std::size_t max_input_bytes)
    : stream_(std::move(stream)), max_input_bytes_(max_input_bytes) {
  stream_->observe(this);
  stream_->watch(false, false);
}

Conversation::~Conversation() {
  assert(waiting_ == nullptr && "the task that waits is destroyed first");
  if (stream_ != nullptr) stream_->observe(nullptr);
}

void Conversation::consume(std::size_t bytes) {
  assert(bytes <= buffer_.size() - begin_);
  begin_ += bytes;
  if (begin_ != buffer_.size()) return;
  buffer_.clear();
  begin_ = 0;
}

Conversation::ReadMore Conversation::read_more() { return ReadMore(*this); }
Conversation::Write Conversation::write(ConstSpan bytes) { return Write(*this, bytes); }

void Conversation::abort(Error why) {
  if (!aborted_) aborted_ = std::move(why);
  if (waiting_ != nullptr) resume(std::unexpected(*aborted_));
}

Conversation::Rest Conversation::release() {
  assert(waiting_ == nullptr);
  stream_->observe(nullptr);
  stream_->watch(false, false);
  buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(begin_));
  begin_ = 0;
  return {std::move(stream_), std::move(buffer_)};
}

std::optional<Result<>> Conversation::try_read() {
  const std::size_t unread = buffer_.size() - begin_;
  if (unread >= max_input_bytes_) {
    return std::unexpected(Error{Errc::overload, "no end within " + std::to_string(max_input_bytes_) + " bytes", {}});
  }
  // By way of the loop's buffer: a conversation that waits holds none of its own.
  const MutSpan shared = stream_->loop().read_buffer();
  const MutSpan into = shared.first(std::min(shared.size(), max_input_bytes_ - unread));
  const IoResult result = stream_->read(into);
  if (result.kind == IoResult::Kind::would_block) return std::nullopt;
  if (result.kind == IoResult::Kind::end) return std::unexpected(Error{Errc::closed, "the peer ended the stream", {}});
  if (result.kind == IoResult::Kind::error) return broken(result.error);
  buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(begin_));
  begin_ = 0;
  buffer_.insert(buffer_.end(), into.begin(), into.begin() + static_cast<std::ptrdiff_t>(result.bytes));
  return Result<>();
}

std::optional<Result<>> Conversation::try_write(ConstSpan& rest) {
  while (!rest.empty()) {
    const iovec piece{const_cast<std::uint8_t*>(rest.data()), rest.size()};
    const IoResult result = stream_->write(std::span(&piece, 1));
    if (result.kind == IoResult::Kind::would_block) return std::nullopt;
    if (result.kind != IoResult::Kind::ok) return broken(result.error);
    rest = rest.subspan(result.bytes);
  }
  return Result<>();
}

void Conversation::resume(Result<> outcome) {
  Waiting& waiting = *std::exchange(waiting_, nullptr);
  stream_->watch(false, false);
  waiting.outcome_ = std::move(outcome);
  waiting.waiter_.resume();  // may end in our destruction
}

void Conversation::on_readable() {
  if (waiting_ == nullptr) return;
  if (auto outcome = try_read()) resume(std::move(*outcome));
}

void Conversation::on_writable() {
  if (waiting_ == nullptr) return;
  if (auto outcome = try_write(waiting_->to_write_)) resume(std::move(*outcome));
}

Conversation::Waiting::~Waiting() {
  if (conversation_.waiting_ != this) return;
  conversation_.waiting_ = nullptr;
  conversation_.stream_->watch(false, false);
}

void Conversation::Waiting::suspend(std::coroutine_handle<> waiter) {
  assert(conversation_.waiting_ == nullptr && "one call at a time");
  waiter_ = waiter;
  conversation_.waiting_ = this;
}

bool Conversation::ReadMore::await_ready() {
  if (conversation_.aborted_) {
    outcome_ = std::unexpected(*conversation_.aborted_);
  } else {
    outcome_ = conversation_.try_read();
  }
  return outcome_.has_value();
}

void Conversation::ReadMore::await_suspend(std::coroutine_handle<> waiter) {
  suspend(waiter);
  conversation_.stream_->watch(true, false);
}

bool Conversation::Write::await_ready() {
  if (conversation_.aborted_) {
    outcome_ = std::unexpected(*conversation_.aborted_);
  } else {
    outcome_ = conversation_.try_write(to_write_);
  }
  return outcome_.has_value();
}

void Conversation::Write::await_suspend(std::coroutine_handle<> waiter) {
  suspend(waiter);
  conversation_.stream_->watch(false, true);
}

Deadline::Deadline(Conversation& conversation, Duration limit, std::string_view what)
    : conversation_(conversation),
      limit_(limit),
      what_(what),
      timer_(
          [](void* self) {
            auto& deadline = *static_cast<Deadline*>(self);
            const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(deadline.limit_).count();
            deadline.conversation_.abort(Error{
                Errc::timeout, std::string(deadline.what_) + " took longer than " + std::to_string(ms) + " ms", {}});
          },
          this) {
  conversation.stream().loop().arm(timer_, limit);
}

}  // namespace ebb::net
