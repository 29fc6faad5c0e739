#include "common/net/loop.h"

#include "common/net/linger.h"
#include "common/net/stream.h"

namespace ebb::net {

void Deferred::cancel() {
  if (next_ == nullptr) return;
  prev_->next_ = next_;
  next_->prev_ = prev_;
  prev_ = next_ = nullptr;
}

Loop::Loop(TimePoint now)
    : now_(now),
      timers_(now),
      read_buffer_(std::make_unique_for_overwrite<std::uint8_t[]>(kFrontRoom + kReadBytes)),
      lingering_(std::make_unique<Lingering>()) {
  deferred_.prev_ = deferred_.next_ = &deferred_;
}

Loop::~Loop() {
  end_lingering();
  while (deferred_.next_ != &deferred_) deferred_.next_->cancel();
  deferred_.prev_ = deferred_.next_ = nullptr;
}

void Loop::end_lingering() { lingering_ = std::make_unique<Lingering>(); }

void Loop::defer(Deferred& work) {
  if (work.scheduled()) return;
  work.prev_ = deferred_.prev_;
  work.next_ = &deferred_;
  work.prev_->next_ = &work;
  deferred_.prev_ = &work;
}

void Loop::run_deferred() {
  while (deferred_.next_ != &deferred_) {
    Deferred& work = *deferred_.next_;
    work.cancel();
    work.run_(work.owner_);
  }
}

void Loop::enqueue(Stream& stream) {
  if (stream.queued_) return;
  stream.queued_ = true;
  stream.prev_ready_ = ready_tail_;
  stream.next_ready_ = nullptr;
  (ready_tail_ != nullptr ? ready_tail_->next_ready_ : ready_head_) = &stream;
  ready_tail_ = &stream;
}

void Loop::dequeue(Stream& stream) {
  if (!stream.queued_) return;
  stream.queued_ = false;
  (stream.prev_ready_ != nullptr ? stream.prev_ready_->next_ready_ : ready_head_) = stream.next_ready_;
  (stream.next_ready_ != nullptr ? stream.next_ready_->prev_ready_ : ready_tail_) = stream.prev_ready_;
}

void Loop::dispatch() {
  // Streams that stay ready are called again on the next turn, after everybody else: a marker ends this turn.
  std::size_t turn = 0;
  for (const Stream* s = ready_head_; s != nullptr; s = s->next_ready_) ++turn;
  while (turn-- > 0 && ready_head_ != nullptr) {
    Stream& stream = *ready_head_;
    dequeue(stream);
    if (stream.observer_ == nullptr) continue;
    // Still ready after its callbacks: it stays queued for the next turn. clear_ready() and watch() take it out.
    enqueue(stream);
    bool gone = false;
    stream.gone_ = &gone;
    if ((stream.ready_ & stream.wanted_ & Stream::kWrite) != 0) stream.observer_->on_writable();
    if (!gone && stream.observer_ != nullptr && (stream.ready_ & stream.wanted_ & Stream::kRead) != 0)
      stream.observer_->on_readable();
    if (!gone) stream.gone_ = nullptr;
  }
  run_deferred();
}

Stream::~Stream() {
  if (gone_ != nullptr) *gone_ = true;
  loop_.dequeue(*this);
}

void Stream::clear_ready(std::uint8_t bits) {
  ready_ &= static_cast<std::uint8_t>(~bits);
  if ((wanted_ & ready_) == 0) loop_.dequeue(*this);
}

void Stream::watch(bool readable, bool writable) {
  wanted_ = static_cast<std::uint8_t>((readable ? kRead : 0) | (writable ? kWrite : 0));
  if ((wanted_ & ready_) != 0) {
    loop_.enqueue(*this);
  } else {
    loop_.dequeue(*this);
  }
}

void Stream::set_ready(std::uint8_t bits) {
  ready_ |= bits;
  if ((wanted_ & ready_) != 0) loop_.enqueue(*this);
}

}  // namespace ebb::net
