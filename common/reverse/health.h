// Which bridges reach which origins, learnt from what became of the visitors' streams. Stock bridges say nothing else;
// ours say why they aborted one (abort_reason.h).
//
//   failed    the bridge ended the stream without one byte of answer, soon: its origin was not reached
//   reached   an answer byte came
//   dropped   nothing can be said: the visitor left first, the tunnel was lost
//
// A bridge that failed is avoided for a target as long as another one is not, and tried again with one visitor at a
// time, at growing intervals. Whoever avoids is the picker: where all have failed nobody is avoided.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <unordered_map>

#include "common/base/time.h"

namespace ebb::reverse {

/// A bridge with one target, from worst to best.
enum class Standing : std::uint8_t {
  failing,  // it failed, and its next trial is not due
  crowded,  // nothing is known yet, and enough streams are on their way to find out
  untried,
  proven,
};

class Health {
 public:
  // A stock bridge tells of a refused origin after 1.0 s (its five attempts), so does ours. An origin that closes a
  // connection later than this was there.
  static constexpr auto kAtOnce = std::chrono::seconds(5);
  static constexpr unsigned kStrikes = 2;    // failures in a row of a proven one; an untried one has one, and so has he
                                             // who says himself that he did not get there
  static constexpr std::size_t kScouts = 2;  // streams at a time to find out about an untried one
  static constexpr auto kFirstPause = std::chrono::seconds(10);
  static constexpr auto kLongestPause = std::chrono::seconds(80);
  static constexpr std::size_t kMaxEntries = 4096;  // pairs of bridge and target; the one unused for longest goes

  /// A stream, until something is known about it. To be handed back once.
  struct Ticket {
    std::uint64_t bridge = 0;
    std::uint64_t target = 0;
    TimePoint opened{};
    bool trial = false;
  };

  /// `bridge` and `target` are any stable numbers, here and below.
  Standing standing(std::uint64_t bridge, std::uint64_t target, TimePoint now) const;
  Ticket opened(std::uint64_t bridge, std::uint64_t target, TimePoint now);
  void reached(const Ticket& ticket);
  void failed(const Ticket& ticket, TimePoint now) { fail(ticket, kStrikes, now); }
  void dropped(const Ticket& ticket);
  enum class Ending : std::uint8_t {
    complete,
    aborted,    // with an error, and nobody says why
    unreached,  // the bridge says that it did not get to the origin,
    elsewhere,  // or is one that would say so, and did not: the fault lies elsewhere
  };
  /// The bridge ended the stream, and no byte of answer had come. `always_says`: this bridge says error whenever it did
  /// not reach an origin (ours), so without it there was one.
  void ended(const Ticket& ticket, Ending how, bool always_says, TimePoint now);

  /// What is known of a bridge.
  struct Summary {
    std::size_t proven = 0;  // targets
    std::size_t failing = 0;
    TimePoint next_trial = TimePoint::max();  // of those failing
  };
  Summary summary(std::uint64_t bridge) const;
  std::size_t size() const { return entries_.size(); }

 private:
  struct Key {
    std::uint64_t bridge;
    std::uint64_t target;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const {
      return static_cast<std::size_t>(key.bridge ^ (key.target * 0x9e3779b97f4a7c15u));
    }
  };
  struct Entry {
    Key key;
    bool proven = false;
    bool failing = false;
    unsigned strikes = 0;     // failures since the last answer
    unsigned trials = 0;      // failed ones since it is failing
    std::size_t waiting = 0;  // streams of which nothing is known
    TimePoint last_opened{};
    TimePoint waiting_since{};  // no later than this since the oldest of them
    TimePoint failing_since{};
    TimePoint retry_at{};
  };
  using Entries = std::list<Entry>;  // the one used last is in front

  Entry* find(std::uint64_t bridge, std::uint64_t target);
  void settled(Entry& entry);
  void fail(const Ticket& ticket, unsigned strikes, TimePoint now);

  Entries entries_;
  std::unordered_map<Key, Entries::iterator, KeyHash> index_;
};

}  // namespace ebb::reverse
