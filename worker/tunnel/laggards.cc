#include "worker/tunnel/laggards.h"

#include <algorithm>
#include <cassert>
#include <string_view>
#include <utility>

#include "common/base/bytes.h"

namespace ebb::tunnel {
namespace {

constexpr std::size_t kShare = 8;  // of a limit: below it somebody who was over is watched no more
constexpr auto kWarnEvery = std::chrono::minutes(1);

}  // namespace

SourceLedger::Key SourceLedger::key_of(const IpAddress& address) {
  const Key hash = std::hash<std::string_view>{}(as_text(ConstSpan(address.bytes).first(address.v6 ? 8 : 4)));
  return hash != 0 ? hash : 1;
}

std::size_t SourceLedger::bytes(Key key) const {
  const auto found = bytes_.find(key);
  return found != bytes_.end() ? found->second : 0;
}

void SourceLedger::change(Key key, std::size_t from, std::size_t to) {
  if (key == 0 || from == to) return;
  const auto at = bytes_.try_emplace(key, 0).first;
  at->second += to - from;
  if (at->second == 0) bytes_.erase(at);
}

Consumer::~Consumer() {
  if (home_ != nullptr) home_->remove(*this);
}

Laggards::~Laggards() {
  while (!holding_.empty()) remove(*holding_.back());
}

bool Laggards::over_its_share(SourceLedger::Key source) const {
  return ledger_ != nullptr && ledger_->bytes(source) > limits_.source_buffer;
}

std::size_t Laggards::limit_of(const Consumer& consumer) const {
  return over_its_share(consumer.source_) ? limits_.stream_buffer / kShare : limits_.stream_buffer;
}

bool Laggards::drained_enough(const Consumer& consumer, const Consumer::Since& since) const {
  const double wanted = static_cast<double>(limits_.min_drain) * std::chrono::duration<double>(limits_.stall).count();
  return static_cast<double>(consumer.delivered_ - since.delivered) >= wanted;
}

void Laggards::hold(Consumer& consumer, std::size_t queued) {
  total_ += queued - consumer.queued_;
  if (ledger_ != nullptr) ledger_->change(consumer.source_, consumer.queued_, queued);
  consumer.queued_ = queued;
}

void Laggards::set_over(Consumer& consumer, bool over) {
  if (consumer.over_ == over) return;
  consumer.over_ = over;
  over ? ++over_ : --over_;
}

void Laggards::update(Consumer& consumer, std::size_t queued, std::uint64_t delivered, TimePoint now) {
  assert(consumer.home_ == nullptr || consumer.home_ == this);
  consumer.delivered_ = delivered;
  if (consumer.home_ == nullptr) {
    if (queued == 0) return;
    consumer.home_ = this;
    consumer.at_ = holding_.size();
    consumer.shortage_ = {now, delivered};
    holding_.push_back(&consumer);
  }
  hold(consumer, queued);
  const std::size_t limit = limit_of(consumer);
  set_over(consumer, queued > limit);
  if (consumer.over_) {
    if (!consumer.watched_) watch(consumer, now);
    consumer.was_over_ = true;
  } else if (consumer.watched_ && queued < limit / kShare) {
    unwatch(consumer);
  }
  if (queued == 0) remove(consumer);
  look_at_all(now);
}

void Laggards::leave(Consumer& consumer) {
  if (consumer.home_ == this) remove(consumer);
}

void Laggards::set_pressed(bool pressed, TimePoint now) {
  pressed_ = pressed;
  look_at_all(now);
}

void Laggards::remove(Consumer& consumer) {
  hold(consumer, 0);
  set_over(consumer, false);
  if (consumer.watched_) unwatch(consumer);
  if (std::exchange(consumer.condemned_, false)) std::erase(condemned_, &consumer);
  consumer.failed_ = false;
  holding_.back()->at_ = consumer.at_;
  holding_[consumer.at_] = holding_.back();
  holding_.pop_back();
  consumer.home_ = nullptr;
  end_shortage();
}

bool Laggards::had_his_time(const Consumer& consumer) const {
  return consumer.failed_ && !drained_enough(consumer, consumer.shortage_);
}

/// To the end of the watched: their times only grow. Who has had his time goes in front.
void Laggards::watch(Consumer& consumer, TimePoint now) {
  const bool over_already = consumer.over_ && had_his_time(consumer);
  consumer.watch_ = {over_already ? now - limits_.stall : now, consumer.delivered_};
  consumer.was_over_ = consumer.over_;
  consumer.watched_ = true;
  consumer.prev_ = over_already ? nullptr : last_;
  consumer.next_ = over_already ? first_ : nullptr;
  (consumer.prev_ != nullptr ? consumer.prev_->next_ : first_) = &consumer;
  (consumer.next_ != nullptr ? consumer.next_->prev_ : last_) = &consumer;
}

/// Somebody held the others up for a stall: who of them would have done so, too.
void Laggards::note_failed(TimePoint now) {
  for (Consumer* consumer : holding_) {
    if (now - consumer->shortage_.at < limits_.stall) continue;
    consumer->failed_ = !drained_enough(*consumer, consumer->shortage_);
    if (!consumer->failed_) consumer->shortage_ = {now, consumer->delivered_};
  }
}

void Laggards::unwatch(Consumer& consumer) {
  (consumer.prev_ != nullptr ? consumer.prev_->next_ : first_) = consumer.next_;
  (consumer.next_ != nullptr ? consumer.next_->prev_ : last_) = consumer.prev_;
  consumer.watched_ = false;
}

void Laggards::look_at_all(TimePoint now) {
  if (is_short() && !shortage_) begin_shortage(now, true);
  end_shortage();
}

void Laggards::end_shortage() {
  // Not just below the limit: reads go on there, and it would begin anew with each.
  if (!shortage_ || is_short() || total_ > limits_.tunnel_buffer - limits_.tunnel_buffer / kShare) return;
  shortage_ = false;
  for (Consumer* consumer : condemned_) consumer->condemned_ = false;
  condemned_.clear();
}

/// `anew` false: the one before goes on.
void Laggards::begin_shortage(TimePoint now, bool anew) {
  shortage_ = true;
  shortage_since_ = now;
  for (Consumer* consumer : holding_) {
    if (had_his_time(*consumer)) {
      if (anew) shortage_since_ = now - limits_.stall;  // his time is up already
      continue;
    }
    consumer->failed_ = false;
    consumer->shortage_ = {now, consumer->delivered_};
  }
}

/// Who held something all the time and drained too little; no more of them than it takes.
void Laggards::condemn() {
  for (Consumer* consumer : holding_) {
    if (consumer->shortage_.at > shortage_since_ || drained_enough(*consumer, consumer->shortage_)) continue;
    consumer->failed_ = true;
    if (!consumer->condemned_) condemned_.push_back(consumer);
  }
  std::ranges::sort(condemned_, {}, &Consumer::queued);  // given out from the end
  const std::size_t enough = limits_.tunnel_buffer - limits_.tunnel_buffer / kShare;
  std::size_t left = total_;
  std::size_t count = 0;
  while (count < condemned_.size() && left > enough) left -= condemned_[condemned_.size() - ++count]->queued_;
  // How much memory the process needs is not known here: one at a time.
  if (count == 0 && pressed_ && !condemned_.empty()) count = 1;
  condemned_.erase(condemned_.begin(), condemned_.end() - static_cast<std::ptrdiff_t>(count));
  for (Consumer* consumer : condemned_) consumer->condemned_ = true;
}

TimePoint Laggards::next_deadline() const {
  if (!condemned_.empty()) return TimePoint::min();
  TimePoint due = TimePoint::max();
  if (first_ != nullptr) due = first_->watch_.at + limits_.stall;
  if (shortage_) due = std::min(due, shortage_since_ + limits_.stall);
  return due;
}

Consumer* Laggards::overdue(TimePoint now) {
  while (first_ != nullptr && now - first_->watch_.at >= limits_.stall) {
    Consumer& consumer = *first_;
    const bool dead = consumer.was_over_ && !drained_enough(consumer, consumer.watch_);
    unwatch(consumer);
    consumer.failed_ = false;  // he is judged now
    watch(consumer, now);
    if (!dead) continue;
    note_failed(now);
    return &consumer;
  }
  if (condemned_.empty() && shortage_ && now - shortage_since_ >= limits_.stall) {
    condemn();
    begin_shortage(now, false);
  }
  if (condemned_.empty()) return nullptr;
  Consumer* consumer = condemned_.back();
  condemned_.pop_back();
  consumer->condemned_ = false;
  return consumer;
}

bool Laggards::take_warning(TimePoint now) {
  if (!congested() || (warned_at_ != TimePoint::min() && now - warned_at_ < kWarnEvery)) return false;
  warned_at_ = now;
  return true;
}

}  // namespace ebb::tunnel
