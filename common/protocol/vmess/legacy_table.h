// The values with which legacy headers may begin now. One look-up per probe, however many ids there are.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "common/base/time.h"
#include "common/protocol/vmess/account.h"

namespace ebb::vmess {

/// A ring of 256 time steps of one second, each with a cell per id; the cells hang in one hash table. A new second
/// overwrites the oldest step: nothing is ever searched for or freed. Computing on demand instead would cost an HMAC
/// per id and second of the window, some 15,000 for alterId 64, for every probe of a stranger. spec/vmess.md 5.2.
class LegacyTable {
 public:
  /// Takes the users with alterId > 0. Memory: about 6 KB per id.
  explicit LegacyTable(std::span<const User> users);

  /// See UserTable::advance.
  std::size_t advance(UnixSeconds now, std::size_t max_steps);

  struct Match {
    std::size_t user;
    UnixSeconds time;
  };
  std::optional<Match> find(const Block16& auth, UnixSeconds now) const;

 private:
  static constexpr std::size_t kSteps = 256;  // more than the 241 of the window, and a mask away from the time
  static constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
  static constexpr UnixSeconds kEmpty = std::numeric_limits<UnixSeconds>::min();
  struct Id {
    UserId id;
    std::size_t user;
  };
  struct Cell {
    std::uint64_t fingerprint = 0;  // first half of the auth; a hit is verified by computing the auth again
    std::uint32_t next = kNone;
  };

  static std::size_t step_of(UnixSeconds time) { return static_cast<std::uint64_t>(time) % kSteps; }
  std::uint32_t& bucket(std::uint64_t fingerprint) { return buckets_[fingerprint & (buckets_.size() - 1)]; }
  void compute(UnixSeconds time);
  void unlink(std::uint32_t cell);

  std::vector<Id> ids_;
  std::array<UnixSeconds, kSteps> times_;  // which second each step holds
  std::vector<Cell> cells_;                // step * ids + id
  std::vector<std::uint32_t> buckets_;     // power of two
};

}  // namespace ebb::vmess
