// What must not be accepted twice, shared by the workers of all generations: one mapping, atomics, no locks, nothing to
// repair after a SIGKILL. Exact enough (38-bit fingerprints under a secret key), never forgets early: full = refuse.
// Source: PROTOCOL.md, replay table.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "common/base/bytes.h"
#include "common/base/fd.h"
#include "common/base/result.h"
#include "ipc/memfd.h"

namespace ebb::ipc {

enum class ReplayKind : std::uint8_t { auth_id = 1, session = 2, taint = 3 };
enum class ReplayVerdict : std::uint8_t {
  fresh,   // nobody had it; it is remembered now
  replay,  // remembered already
  full,    // its bucket has no room: refuse the connection
};

/// One process's view of the table. Not for several threads at once; each may attach its own view.
class ReplayTable {
 public:
  static constexpr std::size_t kDefaultEntries = std::size_t{1} << 20;
  static constexpr std::uint32_t kMaxTtl = 3600;  // seconds; every real one is below 5 minutes

  struct Counts {
    std::uint64_t fresh = 0, replays = 0, full = 0;  // of all processes together
  };

  /// A new table under a new random key. `entries`: a power of two, at least one bucket (32). Errors: os.
  static Result<ReplayTable> create(std::size_t entries = kDefaultEntries);
  /// The table behind a descriptor that came with SHM. The descriptor is kept. Errors: protocol (not such a table), os.
  static Result<ReplayTable> attach(Fd fd);

  /// Remembers `bytes` for `ttl` seconds (clamped to 1..kMaxTtl). Of any number of simultaneous callers in any number
  /// of processes exactly one hears `fresh`. `now`: boot_seconds().
  ReplayVerdict insert(ReplayKind kind, ConstSpan bytes, std::uint32_t ttl, std::uint32_t now);
  /// Whether insert() would say `replay`; remembers nothing.
  bool contains(ReplayKind kind, ConstSpan bytes, std::uint32_t now) const;

  Counts counts() const;
  int fd() const { return fd_.get(); }

  /// CLOCK_BOOTTIME in seconds: the same in all processes, and it goes on while the machine sleeps.
  static std::uint32_t boot_seconds();

 private:
  friend struct ReplayTableProbe;  // tests play the two halves of insert() against each other
  using Cell = std::atomic<std::uint64_t>;
  static_assert(Cell::is_always_lock_free && sizeof(Cell) == 8);
  struct Page;
  struct Place {
    std::uint64_t fingerprint;
    Cell* bucket;
  };
  struct MacFree {
    void operator()(void* ctx) const noexcept;
  };

  ReplayTable() = default;
  Page& page() const { return *static_cast<Page*>(mapping_.data()); }
  Place locate(ReplayKind kind, ConstSpan bytes) const;
  /// First half: the index of the cell now ours, or a final verdict.
  static ReplayVerdict claim(const Place& place, std::uint32_t ttl, std::uint32_t now, std::size_t& index);
  /// Second half: settles who was first among simultaneous claims.
  static ReplayVerdict settle(const Place& place, std::uint32_t now, std::size_t index);

  Fd fd_;
  Mapping mapping_;
  std::size_t buckets_ = 0;
  std::unique_ptr<void, MacFree> mac_;  // keyed SipHash-2-4, copied per use
};

}  // namespace ebb::ipc
