#include "common/protocol/vmess/legacy_table.h"

#include <bit>

#include "common/protocol/vmess/users.h"

namespace ebb::vmess {

LegacyTable::LegacyTable(std::span<const User> users) {
  for (std::size_t i = 0; i < users.size(); ++i) {
    if (users[i].alter_id == 0) continue;
    for (const UserId& id : all_ids(users[i])) ids_.push_back({id, i});
  }
  times_.fill(kEmpty);
  cells_.resize(ids_.size() * kSteps);
  buckets_.assign(std::bit_ceil(cells_.size() | 1), kNone);
}

void LegacyTable::unlink(std::uint32_t cell) {
  std::uint32_t* link = &bucket(cells_[cell].fingerprint);
  while (*link != cell) link = &cells_[*link].next;
  *link = cells_[cell].next;
}

void LegacyTable::compute(UnixSeconds time) {
  const std::size_t step = step_of(time);
  const bool replaces = times_[step] != kEmpty;
  for (std::size_t i = 0; i < ids_.size(); ++i) {
    const auto at = static_cast<std::uint32_t>(step * ids_.size() + i);
    if (replaces) unlink(at);
    const Block16 auth = legacy_auth(ids_[i].id, time);
    cells_[at].fingerprint = load_be64(auth);
    std::uint32_t& head = bucket(cells_[at].fingerprint);
    cells_[at].next = head;
    head = at;
  }
  times_[step] = time;
}

std::size_t LegacyTable::advance(UnixSeconds now, std::size_t max_steps) {
  std::size_t missing = 0;
  const auto want = [&](UnixSeconds time) {
    if (times_[step_of(time)] == time) return;
    if (max_steps == 0) {
      ++missing;
      return;
    }
    --max_steps;
    compute(time);
  };
  want(now);
  for (UnixSeconds distance = 1; distance <= kTimeWindow; ++distance) {
    want(now + distance);
    want(now - distance);
  }
  return missing;
}

std::optional<LegacyTable::Match> LegacyTable::find(const Block16& auth, UnixSeconds now) const {
  const std::uint64_t fingerprint = load_be64(auth);
  for (std::uint32_t at = buckets_[fingerprint & (buckets_.size() - 1)]; at != kNone; at = cells_[at].next) {
    if (cells_[at].fingerprint != fingerprint) continue;
    const UnixSeconds time = times_[at / ids_.size()];
    if (time < now - kTimeWindow || time > now + kTimeWindow) continue;  // a step not yet overwritten
    const Id& id = ids_[at % ids_.size()];
    if (legacy_auth(id.id, time) == auth) return Match{id.user, time};
  }
  return std::nullopt;
}

}  // namespace ebb::vmess
