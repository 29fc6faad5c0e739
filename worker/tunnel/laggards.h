// Consumers that take less than comes, on a tunnel whose peer knows no credit: what they hold, whether the tunnel may
// be read on, whom to reset, and whether new streams had better go elsewhere. No IO and no polling: told of progress,
// it says when to ask again.
//
//   * Over its limit (`stream_buffer`; an eighth of it while its source address is over `source_buffer`), a consumer
//     stops the reading of its tunnel, and is watched until its queue has fallen below an eighth of the limit.
//   * Of every `stall` in which it was over, it must have drained `min_drain` a second, or it is reset, alone. Others
//     that held something all that time and drained as little have had their time too, should they come to be over.
//   * So is, when the queues of a tunnel are over `tunnel_buffer` together or the process is short of memory, who
//     drained less than that, the longest queue first, until enough is free again. Who was spared and has drained no
//     more by the next shortage has had his time: that one costs the others nothing.
//   * While anybody is watched the tunnel is congested: new streams go to another one, which is worth asking for.
// Slow consumers that keep up with min_drain are never reset: they slow down those who share their tunnel, no others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "common/base/address.h"
#include "common/base/time.h"

namespace ebb::tunnel {

struct LaggardLimits {
  std::size_t stream_buffer = std::size_t{8} << 20;
  std::size_t tunnel_buffer = std::size_t{32} << 20;
  std::size_t source_buffer = std::size_t{16} << 20;
  std::uint64_t min_drain = std::uint64_t{64} << 10;  // bytes per second
  Duration stall = std::chrono::seconds(10);
};

/// What consumers of one source address hold, over all tunnels of a loop. It has to outlive them. Bounded by the number
/// of consumers that hold anything.
class SourceLedger {
 public:
  using Key = std::uint64_t;  // of a source; 0: unknown, not counted
  /// Who has an IPv6 address has the whole network of 64 bits it is of.
  static Key key_of(const IpAddress& address);
  std::size_t bytes(Key key) const;
  std::size_t sources() const { return bytes_.size(); }

 private:
  friend class Laggards;
  void change(Key key, std::size_t from, std::size_t to);
  std::unordered_map<Key, std::size_t> bytes_;
};

class Laggards;

/// A consumer of a tunnel as Laggards see it. It may not move.
class Consumer {
 public:
  explicit Consumer(SourceLedger::Key source = 0) : source_(source) {}
  Consumer(const Consumer&) = delete;
  Consumer& operator=(const Consumer&) = delete;
  ~Consumer();
  std::size_t queued() const { return queued_; }
  /// Over its limit now or lately.
  bool watched() const { return watched_; }

 private:
  friend class Laggards;
  struct Since {
    TimePoint at{};
    std::uint64_t delivered = 0;
  };

  SourceLedger::Key source_;
  Laggards* home_ = nullptr;  // null: holds nothing
  std::size_t at_ = 0;        // there, in holding_
  std::size_t queued_ = 0;
  std::uint64_t delivered_ = 0;
  Since watch_;               // begin of the current `stall` of its own
  Since shortage_;            // and of the tunnel's
  Consumer* prev_ = nullptr;  // of the watched
  Consumer* next_ = nullptr;
  bool over_ = false;
  bool was_over_ = false;  // since watch_
  bool watched_ = false;
  bool condemned_ = false;
  bool failed_ = false;  // drained too little since shortage_, while others were held up for a stall
};

/// One per tunnel. All times are the loop's, and never go back.
class Laggards {
 public:
  explicit Laggards(LaggardLimits limits, SourceLedger* ledger = nullptr) : limits_(limits), ledger_(ledger) {}
  Laggards(const Laggards&) = delete;
  Laggards& operator=(const Laggards&) = delete;
  ~Laggards();

  /// What is queued for `consumer` now and has been passed on to it for good, ever. To be told after every batch that
  /// left something queued, and whenever a queue became shorter.
  void update(Consumer& consumer, std::size_t queued, std::uint64_t delivered, TimePoint now);
  /// To be told of all before overdue(): what lies in the kernel moves without an event.
  template <class Delivered>
  void look(const Delivered& delivered_by) {
    for (Consumer* consumer : holding_) consumer->delivered_ = delivered_by(*consumer);
  }
  /// It is gone, with what it held.
  void leave(Consumer& consumer);
  /// The process is short of memory: a tunnel whose consumers hold anything is not read.
  void set_pressed(bool pressed, TimePoint now);
  /// From the next events on.
  void set_limits(LaggardLimits limits) { limits_ = limits; }

  /// Whether the tunnel may be read. Changes by any of the above.
  bool may_read() const { return over_ == 0 && !is_short(); }
  /// Takes no new streams where there is another tunnel. Outlasts !may_read(), so that it does not flap.
  bool congested() const { return first_ != nullptr || shortage_; }
  /// What consumers of that source hold in all is over `source_buffer`: the limit of each is lower.
  bool over_its_share(SourceLedger::Key source) const;
  /// True once when congestion is worth a line in the log: at most once a minute.
  bool take_warning(TimePoint now);

  /// When to call overdue(); TimePoint::max(): never.
  TimePoint next_deadline() const;
  /// Somebody to be reset now, or null. The reset makes it leave; then ask again.
  Consumer* overdue(TimePoint now);

  std::size_t queued() const { return total_; }

 private:
  friend class Consumer;
  bool is_short() const { return total_ > limits_.tunnel_buffer || (pressed_ && total_ > 0); }
  std::size_t limit_of(const Consumer& consumer) const;
  bool drained_enough(const Consumer& consumer, const Consumer::Since& since) const;
  void hold(Consumer& consumer, std::size_t queued);
  void set_over(Consumer& consumer, bool over);
  void watch(Consumer& consumer, TimePoint now);
  void unwatch(Consumer& consumer);
  void remove(Consumer& consumer);
  void look_at_all(TimePoint now);
  void begin_shortage(TimePoint now, bool anew);
  bool had_his_time(const Consumer& consumer) const;
  void note_failed(TimePoint now);
  void end_shortage();
  void condemn();

  LaggardLimits limits_;
  SourceLedger* ledger_;
  std::vector<Consumer*> holding_;    // who holds anything
  std::vector<Consumer*> condemned_;  // to be given out by overdue(), the last first
  Consumer* first_ = nullptr;         // watched, by the time of their watch_
  Consumer* last_ = nullptr;
  std::size_t total_ = 0;
  std::size_t over_ = 0;  // consumers
  TimePoint shortage_since_{};
  TimePoint warned_at_ = TimePoint::min();
  bool shortage_ = false;
  bool pressed_ = false;
};

}  // namespace ebb::tunnel
