// Who of a tunnel's streams may read next, and how much: decided before the read, so that what waits stays in the
// sockets. Like fq_codel: sources that have just come go first, for one quantum; the others share in turns.
//
//   a source's socket is readable     enter(source)
//   the wire has room                 while (auto grant = scheduler.next(room)) { read at most grant->bytes; used(...)
//   } its peer gave it credit           credited(source)
//
// Nobody starves: one that entered as new and ran dry keeps a place among the others until its turn has come there, so
// it is new again at most once a round. Nothing is allocated; a source may leave at any time, also by its destructor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace ebb::tunnel {

class Scheduler;

/// What a stream of a tunnel is for the scheduler. It may not move, and has to leave before the scheduler goes.
class Source {
 public:
  static constexpr std::uint64_t kNoLimit = static_cast<std::uint64_t>(-1);

  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  /// How much its peer lets it send now; kNoLimit where the protocol has no credit.
  virtual std::uint64_t credit() const { return kNoLimit; }

 protected:
  ~Source();

 private:
  friend class Scheduler;
  enum class Place : std::uint8_t { out, fresh, turn, no_credit };
  Scheduler* home_ = nullptr;  // null: out
  Source* prev_ = nullptr;
  Source* next_ = nullptr;
  std::size_t left_ = 0;  // of its turn
  Place place_ = Place::out;
  bool dry_ = false;  // in a list, but with nothing to read
};

struct Grant {
  Source* source;
  std::size_t bytes;  // > 0
};

class Scheduler {
 public:
  static constexpr std::size_t kMaxQuantum = 256 * 1024;   // for fast wires: fewer, larger reads
  static constexpr std::size_t kFirstQuantum = 64 * 1024;  // until more is known of the wire
  static constexpr std::size_t kMinQuantum = 8 * 1024;     // for slow ones: a turn of each must not take long

  Scheduler() = default;
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;
  ~Scheduler();

  /// How much one reads before it is the next one's turn. Clamped to the two bounds above.
  void set_quantum(std::size_t bytes);
  std::size_t quantum() const { return quantum_; }

  /// `source` has something to read. Nothing changes for one that is here already.
  void enter(Source& source);
  /// `source` has credit again: it comes back if it was put out for lack of it.
  void credited(Source& source);
  /// It reads no more for now, or ever.
  void leave(Source& source);

  /// Who reads next: at most its credit, what is left of its turn, and `room`. Asked again without used(), it gives the
  /// same again.
  std::optional<Grant> next(std::size_t room);
  /// `source` has read so many bytes of its grant. `more`: it may have more; otherwise it is out until it enters again.
  /// One that has left meanwhile is ignored.
  void used(Source& source, std::size_t bytes, bool more);

  /// Nobody wants to read (some may wait for credit).
  bool idle() const { return ready_ == 0; }
  /// How many have something to read and credit as far as is known.
  std::size_t ready() const { return ready_; }
  /// How many wait for credit.
  std::size_t without_credit() const { return no_credit_; }

 private:
  using Place = Source::Place;
  struct List {
    Source* first = nullptr;
    Source* last = nullptr;
  };
  List& list_of(const Source& source) { return source.place_ == Place::fresh ? fresh_ : turns_; }
  void append(Source& source, Place place, bool dry);
  void unlink(Source& source);

  List fresh_;
  List turns_;
  std::size_t quantum_ = kFirstQuantum;
  std::size_t ready_ = 0;
  std::size_t no_credit_ = 0;
};

}  // namespace ebb::tunnel
