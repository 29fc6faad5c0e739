#include "supervisor/slots/book.h"

#include <set>
#include <utility>

namespace ebb::supervisor {
namespace {

std::set<Place> addresses_of(const std::vector<Listener>& listeners) {
  std::set<Place> all;
  for (const auto& listener : listeners) all.insert(place_of(listener));
  return all;
}

}  // namespace

bool SlotBook::adopt(Slot slot) {
  const auto address = listening_place(slot);
  if (!address) return false;
  const auto [entry, fresh] = addresses_.try_emplace(*address);
  if (fresh) entry->second.number = slot.listener;
  entry->second.listening = true;
  next_slot_ = std::max(next_slot_, slot.id + 1);
  next_number_ = std::max(next_number_, slot.listener + 1);
  slot.listener = entry->second.number;
  entry->second.slots.push_back(std::move(slot));
  return true;
}

std::vector<std::string> SlotBook::add(const std::vector<Listener>& wanted, unsigned per_address, const Ours& ours) {
  std::vector<std::string> problems = overlaps(wanted);
  if (!problems.empty()) return problems;
  std::map<Place, Address> fresh;
  std::uint32_t number = next_number_;
  std::uint32_t slot = next_slot_;
  for (const auto& listener : wanted) {
    if (addresses_.contains(place_of(listener))) continue;
    Address address;
    address.number = number++;
    const auto may_share = [&](const PortOwner& owner) { return ours(owner.pid); };
    if (auto problem = bind_address(listener, address.number, per_address, slot, may_share, address.slots)) {
      problems.push_back(std::move(*problem));
    }
    fresh.emplace(place_of(listener), std::move(address));
  }
  if (!problems.empty()) return problems;
  addresses_.merge(fresh);
  next_number_ = number;
  next_slot_ = slot;
  return problems;
}

Result<> SlotBook::listen(const std::vector<Listener>& wanted) {
  for (const auto& listener : wanted) {
    const auto found = addresses_.find(place_of(listener));
    if (found == addresses_.end() || found->second.listening) continue;
    for (const auto& slot : found->second.slots) {
      auto listening = listen_on(slot, listener);
      if (!listening) return listening;
    }
    found->second.listening = true;
  }
  return {};
}

bool SlotBook::has_more_than(const std::vector<Listener>& wanted) const {
  const auto kept = addresses_of(wanted);
  for (const auto& [address, entry] : addresses_) {
    if (!kept.contains(address)) return true;
  }
  return false;
}

void SlotBook::retire_all_but(const std::vector<Listener>& wanted) {
  const auto kept = addresses_of(wanted);
  for (auto& [address, entry] : addresses_) {
    if (kept.contains(address) || std::exchange(entry.retired, true)) continue;
    for (const auto& slot : entry.slots) retire(slot);
  }
}

void SlotBook::restore(bool whoever) {
  for (auto& [address, entry] : addresses_) {
    if (!std::exchange(entry.retired, false) && !whoever) continue;
    for (const auto& slot : entry.slots) supervisor::restore(slot);
  }
}

std::vector<std::uint32_t> SlotBook::close_all_but(const std::vector<Listener>& wanted) {
  const auto kept = addresses_of(wanted);
  std::vector<std::uint32_t> closed;
  std::erase_if(addresses_, [&](const auto& one) {
    if (kept.contains(one.first)) return false;
    for (const auto& slot : one.second.slots) closed.push_back(slot.id);
    return true;
  });
  return closed;
}

const SlotBook::Address* SlotBook::find(const Place& place) const {
  const auto found = addresses_.find(place);
  return found == addresses_.end() ? nullptr : &found->second;
}

std::vector<std::uint32_t> SlotBook::slot_ids() const {
  std::vector<std::uint32_t> ids;
  for (const auto& [address, entry] : addresses_) {
    for (const auto& slot : entry.slots) ids.push_back(slot.id);
  }
  return ids;
}

}  // namespace ebb::supervisor
