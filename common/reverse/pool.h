// The bridges that serve one portal, and which of them a visitor gets.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/base/address.h"
#include "common/reverse/control.h"
#include "common/reverse/health.h"
#include "common/reverse/picker.h"

namespace ebb::reverse {

/// What makes two tunnels those of one bridge: the same user, and with our own bridges the id they send, with others
/// the address they come from. Stable over restarts of either end.
std::uint64_t bridge_identity(const std::optional<UserId>& user, std::string_view address, const Hello* hello);

/// What visitors' targets are told apart by: for Health.
std::uint64_t target_key(const Target& target);

class Pool {
 public:
  static constexpr std::size_t kMaxRemembered = 1024;  // bridges that are not up

  explicit Pool(PickPolicy policy = PickPolicy::least) : picker_(policy) {}
  PickPolicy policy() const { return picker_.policy(); }
  void set_policy(PickPolicy policy) {
    if (policy != picker_.policy()) picker_ = Picker(policy);
  }

  // ---- one pick: begin(), add() of every tunnel in order of arrival, choose()
  void begin(const Target& target, TimePoint now);
  /// `tunnel` without rank and standing. `place`: of its user in the configuration, from 0. `settled`: who the bridge
  /// is will not change any more.
  void add(const Candidate& tunnel, std::uint32_t place, bool settled);
  /// As Picker::pick().
  std::optional<std::size_t> choose(std::uint64_t visitor_key) { return picker_.pick(candidates_, visitor_key); }
  /// The visitor has a stream on that bridge.
  Health::Ticket opened(std::uint64_t bridge, TimePoint now);

  /// Lower is earlier under `order`: users as the configuration lists them, of one user the heavier bridge, then who
  /// came first.
  std::uint64_t rank(std::uint64_t bridge, std::uint32_t weight, std::uint32_t place, bool settled);
  std::uint64_t visitors(std::uint64_t bridge) const;
  Health& health() { return health_; }
  const Health& health() const { return health_; }

 private:
  struct Seat {
    std::uint32_t number = 0;  // in order of first arrival
    std::uint64_t visitors = 0;
    TimePoint used{};
  };
  Seat& seat(std::uint64_t bridge);

  Picker picker_;
  Health health_;
  std::unordered_map<std::uint64_t, Seat> seats_;
  std::uint32_t last_seat_ = 0;
  std::vector<Candidate> candidates_;
  std::uint64_t target_ = 0;
  TimePoint now_{};
};

}  // namespace ebb::reverse
