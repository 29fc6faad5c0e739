// Slots: the listening sockets, bound once and passed on to workers. spec/processes.md 3.1-3.3, 3.5.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "supervisor/slots/listeners.h"

namespace ebb::supervisor {

/// Pending connections per slot.
inline constexpr int kBacklog = 4096;

struct Slot {
  Fd fd;
  std::uint64_t cookie = 0;    // SO_COOKIE: tells copies of one socket apart from other sockets
  std::uint32_t id = 0;        // unique over all addresses; slot -> worker id mod workers
  std::uint32_t listener = 0;  // SlotBook::Address::number
};

/// Slots per address: min(64, max(8, 4 x workers)), fewer where that many sockets would use up more than a quarter of
/// the `open_files` limit (wide port ranges); at least 1.
unsigned slots_per_address(unsigned workers, std::size_t addresses, unsigned long open_files);

/// Sentences about listeners that overlap each other: the kernel would deal connections between them at random.
std::vector<std::string> overlaps(const std::vector<Listener>& listeners);

/// One address: `slots` SO_REUSEPORT sockets after a probe without SO_REUSEPORT (with it, a second process of our uid
/// would share the port silently), numbered from `next_slot` on (which moves), appended to `into`; nothing listens yet.
/// The sentence when it cannot be had. `may_share` (empty: nobody): whether the process that listens there already is
/// one of ours.
std::optional<std::string> bind_address(const Listener& listener, std::uint32_t number, unsigned slots,
                                        std::uint32_t& next_slot,
                                        const std::function<bool(const PortOwner&)>& may_share,
                                        std::vector<Slot>& into);

/// listen(4096), nothing for UDP; workers that will poll it are READY by now. Errors: os, naming the listener.
Result<> listen_on(const Slot& slot, const Listener& listener);

/// What a socket is bound to: TCP and UDP ports have nothing to do with each other.
struct Place {
  Endpoint address;
  Network network = Network::tcp;
  friend auto operator<=>(const Place&, const Place&) = default;
};
inline Place place_of(const Listener& listener) { return {listener.address, listener.network}; }

/// Where a slot of another supervisor listens; nullopt when it neither listens nor is a bound UDP socket, or its cookie
/// is another one.
std::optional<Place> listening_place(const Slot& slot);

/// Lets no new connection in while those queued can still be accepted: drops pure SYNs (section 3.5). For every holder.
/// Nothing for UDP.
void retire(const Slot& slot);
/// Takes that back: who was dropped meanwhile tries again and comes in.
void restore(const Slot& slot);

}  // namespace ebb::supervisor
