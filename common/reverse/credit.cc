#include "common/reverse/credit.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <utility>

namespace ebb::reverse {
namespace {

constexpr std::uint64_t kMaxAnnounced = std::uint64_t{64} << 10;
constexpr std::uint64_t kSpareShare = 8;                        // of the budget: kept for streams that may still come
constexpr std::uint64_t kShare = 17;                            // a stream leaves a seventeenth of what is free
constexpr std::uint64_t kStep = std::uint64_t{128} << 10;       // a read of the sender that is worth it
constexpr auto kShortestPeriod = std::chrono::milliseconds(2);  // measured over less, a burst looks like a rate
constexpr auto kEasyTime = std::chrono::milliseconds(10);       // loops, batches and queues beside the round trip

double seconds(Duration d) { return std::chrono::duration<double>(d).count(); }

/// Credit is added in pieces of this size: less is not worth a message and a read, but the sender of a window that just
/// covers the round trip must not run dry, so it is a sixteenth of a large one, and half of the smallest.
std::uint64_t step_of(std::uint64_t window) {
  if (window <= kMaxAnnounced) return window / 2;
  return std::max(std::min(window / 4, kStep), window / 16);
}

}  // namespace

SendCredit SendCredit::early(bool limited) {
  SendCredit out(kMinWindow);
  out.limited_ = limited;
  return out;
}

void SendCredit::begin(std::uint64_t announced) {
  const std::uint64_t given = std::max(announced, kMinWindow);
  if (std::exchange(limited_, true)) {
    left_ += given - kMinWindow;
    return;
  }
  left_ = given - std::min(given, spent_);
  spent_ -= given - left_;
}

bool SendCredit::add(std::uint64_t bytes) {
  const bool was_empty = left_ == 0;
  const std::uint64_t used_up = std::min(bytes, spent_);
  spent_ -= used_up;
  left_ += std::min(bytes - used_up, std::numeric_limits<std::uint64_t>::max() - left_);
  return was_empty && left_ > 0;
}

void SendCredit::spend(std::uint64_t bytes) {
  if (!limited_) {
    spent_ += bytes;
    return;
  }
  assert(bytes <= left_);
  left_ -= bytes;
}

// --- WindowBudget ----------------------------------------------------------------------------------------------------

WindowBudget::WindowBudget(std::uint64_t bytes)
    : budget_(bytes), announced_(static_cast<std::uint32_t>(std::clamp(bytes / 512, kMinWindow, kMaxAnnounced))) {
  resize(bytes);
}

void WindowBudget::resize(std::uint64_t bytes) {
  budget_ = bytes;
  room_ = std::max<std::uint64_t>(1, bytes / kSpareShare / announced_);
}

std::uint64_t WindowBudget::limit() const {
  if (streams_ >= room_) return budget_;
  const std::uint64_t kept = (room_ - streams_) * announced_;
  return budget_ - std::min(budget_, kept);
}

std::uint64_t WindowBudget::promise() const {
  return budget_ + (streams_ > room_ ? (streams_ - room_) * announced_ : 0);
}

/// The most a stream that is charged `charge` may hold.
std::uint64_t WindowBudget::ceiling(std::uint64_t charge) const {
  const std::uint64_t most = limit();
  if (pressed_ || charged_ > most) return kMinWindow;
  const std::uint64_t mine = most - charged_ + charge;
  return std::max<std::uint64_t>(announced_, mine - mine / kShare);
}

// --- ReceiveWindow ---------------------------------------------------------------------------------------------------

ReceiveWindow::ReceiveWindow(WindowBudget& budget, bool enforced)
    : budget_(&budget), credit_(budget.announced_), enforced_(enforced) {
  ++budget_->streams_;
  charge();
}

ReceiveWindow::ReceiveWindow(ReceiveWindow&& from) noexcept
    : budget_(std::exchange(from.budget_, nullptr)),
      credit_(from.credit_),
      beyond_(from.beyond_),
      queued_(from.queued_),
      charge_(from.charge_),
      want_(from.want_),
      taken_in_all_(from.taken_in_all_),
      taken_(from.taken_),
      rate_(from.rate_),
      since_(from.since_),
      last_(from.last_),
      drained_(from.drained_),
      finished_(from.finished_),
      enforced_(from.enforced_) {}

ReceiveWindow::~ReceiveWindow() {
  if (budget_ == nullptr) return;
  budget_->charged_ -= charge_;
  --budget_->streams_;
}

void ReceiveWindow::charge() {
  const std::uint64_t due = std::max<std::uint64_t>(holds(), budget_->announced_);
  budget_->charged_ += due - charge_;
  charge_ = due;
}

std::uint64_t ReceiveWindow::opening() { return top_up(); }

std::uint64_t ReceiveWindow::enforce() {
  enforced_ = true;
  return may_grow() ? top_up() : 0;
}

bool ReceiveWindow::received(std::uint64_t bytes) {
  const std::uint64_t covered = std::min(bytes, credit_);
  if (covered < bytes && enforced_) return false;
  credit_ -= covered;
  beyond_ += bytes - covered;
  queued_ += bytes;
  if (covered < bytes) charge();
  return true;
}

std::uint64_t ReceiveWindow::consumed(std::uint64_t bytes, TimePoint now) {
  assert(bytes <= queued_);
  queued_ -= bytes;
  charge();
  measure(bytes, now);
  taken_in_all_ += bytes;
  return may_grow() ? top_up() : 0;
}

bool ReceiveWindow::may_grow() const { return enforced_ && (beyond_ > 0 || taken_in_all_ >= budget_->announced_ / 4); }

void ReceiveWindow::finish() {
  finished_ = true;
  credit_ = 0;
  charge();
}

/// Never leaves a stream without: holding nothing, it is below every ceiling by more than a step.
std::uint64_t ReceiveWindow::top_up() {
  if (finished_) return 0;
  const std::uint64_t window = std::min(want_, budget_->ceiling(charge_));
  if (holds() + step_of(window) > window + beyond_) return 0;
  const std::uint64_t add = window + beyond_ - holds();
  const std::uint64_t used_up = std::min(add, beyond_);
  beyond_ -= used_up;
  credit_ += add - used_up;
  charge();
  return add;
}

/// The consumer's rate over about a round trip, and from it what the stream wants.
void ReceiveWindow::measure(std::uint64_t bytes, TimePoint now) {
  const Duration period = std::max<Duration>(budget_->rtt_ - budget_->rtt_ / 8, kShortestPeriod);
  if (since_ == TimePoint{}) since_ = last_ = now;
  // While nothing was left the consumer waited for the sender: that says no more about it than one period does.
  if (drained_ && now - last_ > period) since_ += now - last_ - period;
  last_ = now;
  drained_ = queued_ == 0;
  if (const Duration elapsed = now - since_; elapsed >= period) {
    const double rate = static_cast<double>(taken_) / seconds(elapsed);
    const double ahead = 2 * (rate_ > 0 ? std::clamp(rate / rate_, 1.0, 2.0) : 2.0);
    const double needed = ahead * rate * seconds(budget_->rtt_);
    const double easy = std::min(ahead * rate * seconds(budget_->rtt_ + kEasyTime), double{kEasyWindow});
    const double most = static_cast<double>(budget_->budget_);
    const auto want = std::max(kInitialWindow, static_cast<std::uint64_t>(std::min(std::max(needed, easy), most)));
    want_ = want >= want_ ? want : want_ - (want_ - want) / 4;
    rate_ = rate;
    since_ = now;
    taken_ = 0;
  }
  taken_ += bytes;
}

}  // namespace ebb::reverse
