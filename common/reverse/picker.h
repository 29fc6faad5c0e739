// Which tunnel a visitor gets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "common/base/strong_id.h"

namespace ebb::reverse {

enum class PickPolicy : std::uint8_t {
  least,       // fewest bytes in flight, then fewest streams, then the oldest
  roundrobin,  // one after the other
  hash,        // the same visitor key goes to the same tunnel while that lives; others do not move when one leaves
  order,       // always the oldest
};
std::optional<PickPolicy> policy_named(std::string_view text);  // configuration words

struct Candidate {
  TunnelId id;
  bool usable = true;        // PortalTunnel::pickable(), and the transport is not stalled
  bool last_resort = false;  // PortalTunnel::pickable_as_last(): draining but alive
  std::size_t streams = 0;
  std::size_t bytes_in_flight = 0;
  std::uint32_t weight = 0;  // from a hello; 0 counts as 1
};

/// One per portal; keeps the round-robin position.
class Picker {
 public:
  explicit Picker(PickPolicy policy = PickPolicy::least) : policy_(policy) {}
  /// Index into `tunnels`, which are in order of arrival. `visitor_key` is any stable hash of the visitor (hash policy
  /// only). Among the usable by policy; if none, the youngest last resort; if none, nullopt: wait or refuse.
  std::optional<std::size_t> pick(std::span<const Candidate> tunnels, std::uint64_t visitor_key = 0);

 private:
  std::optional<std::size_t> after_last(std::span<const Candidate> tunnels);

  PickPolicy policy_;
  TunnelId last_{};
  std::size_t last_index_ = 0;
};

}  // namespace ebb::reverse
