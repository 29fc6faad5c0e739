// What code on a loop may ask for: the time, deadlines, "later in this wake-up", shared buffers. UvLoop drives it with
// libuv, ManualLoop (tests/support) by hand.
#pragma once

#include <cstddef>
#include <memory>

#include "common/base/bytes.h"
#include "common/base/time.h"
#include "common/net/timers.h"

namespace ebb::net {

class Lingering;
class Loop;
class Stream;

/// Work to do once, after the events of this wake-up and before the next wait. A member of its owner.
class Deferred {
 public:
  using Run = void (*)(void* owner);
  Deferred(Run run, void* owner) : run_(run), owner_(owner) {}
  Deferred(const Deferred&) = delete;
  Deferred& operator=(const Deferred&) = delete;
  ~Deferred() { cancel(); }
  void cancel();
  bool scheduled() const { return next_ != nullptr; }

 private:
  friend class Loop;
  Deferred* prev_ = nullptr;
  Deferred* next_ = nullptr;
  Run run_;
  void* owner_;
};

class Loop {
 public:
  /// Bytes one read may bring; the buffer has kFrontRoom more in front for what an earlier read left over.
  static constexpr std::size_t kReadBytes = std::size_t{256} * 1024;
  static constexpr std::size_t kFrontRoom = std::size_t{144} * 1024;

  explicit Loop(TimePoint now);
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  virtual ~Loop();

  /// Monotonic time of this wake-up.
  TimePoint now() const { return now_; }
  void arm(Timer& timer, Duration after) { timers_.arm(timer, now_, after); }
  /// The same for a point in time, which may lie in the past, as far back as TimePoint::min(): due at once.
  void arm_at(Timer& timer, TimePoint due) { arm(timer, due <= now_ ? Duration(0) : due - now_); }
  /// Runs `work` at the end of this wake-up; scheduling it twice is once.
  void defer(Deferred& work);
  /// kFrontRoom + kReadBytes, shared by everything on the loop: valid within one callback only.
  MutSpan read_buffer() { return {read_buffer_.get(), kFrontRoom + kReadBytes}; }
  /// Streams being closed with care: linger_close() is the way in.
  Lingering& lingering() { return *lingering_; }
  const Lingering& lingering() const { return *lingering_; }

 protected:
  friend class Stream;
  /// Closes what lingers now: a derived loop whose streams need it calls this in its destructor.
  void end_lingering();
  void set_now(TimePoint now) { now_ = now; }
  Timers& timers() { return timers_; }
  /// Calls every stream that is ready and watched, once, then deferred work until none is left.
  void dispatch();
  bool ready_pending() const { return ready_head_ != nullptr; }

 private:
  void enqueue(Stream& stream);
  void dequeue(Stream& stream);
  void run_deferred();

  TimePoint now_;
  Timers timers_;
  Deferred deferred_{nullptr, nullptr};  // circular list head
  Stream* ready_head_ = nullptr;
  Stream* ready_tail_ = nullptr;
  std::unique_ptr<std::uint8_t[]> read_buffer_;
  std::unique_ptr<Lingering> lingering_;
};

}  // namespace ebb::net
