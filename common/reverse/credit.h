// Credit of a tunnel between our own nodes: how much a sender may still send on a stream, and how much a receiver lets
// him, inside what a tunnel may cost in memory. Per TCP stream and direction; bytes are those of Data parts.
//
//   sender                       receiver
//   SendCredit::left()  <-----   ReceiveWindow::opening(), consumed(): Window{session, add}
//   spend(n)            ----->   received(n) ... the local consumer takes them ... consumed(n)
//
// The memory rule. What a stream *holds* is the credit its peer may still use plus what is queued here: all it could
// make us keep. Credit cannot be taken back, so a stream that holds too much is only not given more until it has
// shrunk.
//   1. The hello announces a small window, `announced()`: 64 KiB, less with a small budget. That is what a stream costs
//      at once, wanted or not, and every stream is charged at least that much while it lives.
//   2. Everything above is added later, out of what is free. Free is the budget less all charges less the announced
//      window of each of the first `room()` streams that are not there yet (an eighth of the budget).
//   3. A stream may come to hold 16/17 of what is free and its own: one alone nearly all, several come near to equal
//      shares, because a share becomes smaller with every other's growth and who is above his is given nothing.
// So all streams together never hold more than the budget, plus the announced window of each stream beyond `room()`;
// when that happens the tunnel is crowded(), and nobody is given more than kMinWindow at a time until it is over.
//
// How much a stream wants: what its consumer took in the last round trip, twice; up to four times while that still
// grows (a sender that doubles each round trip is not held back), never less than kInitialWindow. On short round trips
// this is little, so the other half of the rule lets it have what 10 ms bring, up to kEasyWindow: loops and queues take
// their time too. A consumer that slows down wants less within a few reads; one that stalls holds what it had.
#pragma once

#include <cstdint>

#include "common/base/time.h"

namespace ebb::reverse {

inline constexpr std::uint64_t kMinWindow = std::uint64_t{16} << 10;       // of any stream, announced or in force
inline constexpr std::uint64_t kInitialWindow = std::uint64_t{256} << 10;  // while nothing is known of the consumer
inline constexpr std::uint64_t kEasyWindow = std::uint64_t{1} << 20;       // whatever the round trip time

/// What we may send. Starts with what the peer announced; a hello that says less than the protocol's minimum, or
/// nothing, means the minimum.
class SendCredit {
 public:
  static constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};

  explicit SendCredit(std::uint64_t announced) : left_(announced < kMinWindow ? kMinWindow : announced) {}
  /// Of a stream that begins before the peer has announced anything: begin() then counts from its first byte.
  static SendCredit early(bool limited);
  void begin(std::uint64_t announced);

  std::uint64_t left() const { return limited_ ? left_ : kUnlimited; }
  /// What was sent beyond the credit, and what comes next is used up by.
  std::uint64_t debt() const { return limited_ ? spent_ : 0; }
  /// True when there was none before: a stream that waited outside may come back. Never overflows.
  bool add(std::uint64_t bytes);
  /// At most left().
  void spend(std::uint64_t bytes);

 private:
  std::uint64_t left_;
  std::uint64_t spent_ = 0;  // before begin(); after it, what was sent beyond the credit: the next to come is used up
  bool limited_ = true;
};

/// One per tunnel: what all its ReceiveWindows may hold. It has to outlive them.
class WindowBudget {
 public:
  explicit WindowBudget(std::uint64_t bytes = std::uint64_t{32} << 20);
  WindowBudget(const WindowBudget&) = delete;
  WindowBudget& operator=(const WindowBudget&) = delete;

  /// For Hello::initial_window.
  std::uint32_t announced() const { return announced_; }
  /// Streams that fit besides one that has grown as far as it can.
  std::uint64_t room() const { return room_; }
  std::uint64_t streams() const { return streams_; }
  /// No window grows here any more before streams have left: another tunnel serves new ones better.
  bool crowded() const { return streams_ >= room_; }
  /// The smallest round trip time seen lately. Zero: not known, no window grows beyond kEasyWindow.
  void set_rtt(Duration rtt) { rtt_ = rtt; }
  Duration rtt() const { return rtt_; }
  /// The process is short of memory: until this is taken back nobody is given more than kMinWindow at a time.
  void set_pressed(bool pressed) { pressed_ = pressed; }
  /// A changed budget; announced() stays what it was. Less takes effect as consumers take what streams hold now.
  void resize(std::uint64_t bytes);

  /// What all streams are charged: at least what they hold. Never above promise(), unless resize() lowered it.
  std::uint64_t charged() const { return charged_; }
  std::uint64_t promise() const;

 private:
  friend class ReceiveWindow;
  std::uint64_t limit() const;
  std::uint64_t ceiling(std::uint64_t charge) const;

  std::uint64_t budget_;
  std::uint32_t announced_;
  std::uint64_t room_;
  std::uint64_t streams_ = 0;
  std::uint64_t charged_ = 0;
  Duration rtt_{};
  bool pressed_ = false;
};

/// One per stream: what the peer may send on it.
class ReceiveWindow {
 public:
  /// `enforced` false: of a stream that begins before the peer knows our announcement. What he sends beyond it is
  /// taken, and comes off the credit he is given once enforce() was called.
  explicit ReceiveWindow(WindowBudget& budget, bool enforced = true);
  ReceiveWindow(ReceiveWindow&& from) noexcept;
  ReceiveWindow& operator=(ReceiveWindow&&) = delete;
  ~ReceiveWindow();

  /// Credit to add right away, on top of what was announced; 0: none. Worth sending beside New, where it costs nothing;
  /// whoever never asks gives it with the first bytes that are consumed.
  std::uint64_t opening();
  /// The peer obeys from here on. Credit to add now; 0: none.
  std::uint64_t enforce();
  bool enforced() const { return enforced_; }
  std::uint64_t beyond() const { return beyond_; }
  /// Nothing is here, or was, that the peer had no credit for and that has not come off it.
  bool covered() const { return enforced_ && beyond_ == 0; }
  /// Bytes came. False: the peer had no credit for them and the stream has to be ended; nothing is counted then.
  bool received(std::uint64_t bytes);
  /// The local consumer took so many of them. Credit to add now; 0: none yet (the first only when a quarter of what was
  /// announced is taken: most streams never need any), or not enforced.
  std::uint64_t consumed(std::uint64_t bytes, TimePoint now);
  /// The peer will send no more: what he did not use is free for others.
  void finish();

  std::uint64_t queued() const { return queued_; }       // received, not consumed
  std::uint64_t outstanding() const { return credit_; }  // credit the peer may still use
  std::uint64_t holds() const { return queued_ + credit_; }
  std::uint64_t wants() const { return want_; }

 private:
  std::uint64_t top_up();
  bool may_grow() const;
  void charge();
  void measure(std::uint64_t bytes, TimePoint now);

  WindowBudget* budget_;
  std::uint64_t credit_;
  std::uint64_t beyond_ = 0;  // what came without credit, and has not come off it yet
  std::uint64_t queued_ = 0;
  std::uint64_t charge_ = 0;
  std::uint64_t want_ = kInitialWindow;
  std::uint64_t taken_in_all_ = 0;
  std::uint64_t taken_ = 0;  // by the consumer since since_
  double rate_ = 0;          // bytes per second, of the period before
  TimePoint since_{};
  TimePoint last_{};
  bool drained_ = false;  // at last_ nothing was left
  bool finished_ = false;
  bool enforced_;
};

}  // namespace ebb::reverse
