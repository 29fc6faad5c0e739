#include "worker/edge/listeners.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "common/base/log.h"

namespace ebb::edge {

Listeners::Listeners(net::UvLoop& loop, Owner owner)
    : loop_(loop),
      owner_(std::move(owner)),
      retry_(
          [](void* self) {
            static_cast<Listeners*>(self)->starved_ = false;
            static_cast<Listeners*>(self)->review();
          },
          this) {}

Listeners::~Listeners() = default;

bool Listeners::add(const ipc::SlotGrant& grant, Fd socket) {
  Slot& slot = slots_[grant.slot];
  slot.poll.reset();  // before its socket: a slot granted again replaces the old copy
  slot.socket = std::move(socket);
  slot.inbound = grant.inbound;
  slot.cookie = grant.cookie;
  slot.listener = grant.listener;
  slot.polled = false;
  slot.poll = net::Poll::make(loop_, slot.socket.get(), [this, &slot](bool, bool) { accept_some(slot); });
  if (slot.poll == nullptr) {
    slots_.erase(grant.slot);
    return false;
  }
  review();
  return true;
}

void Listeners::remove(std::uint32_t slot) {
  const auto at = slots_.find(slot);
  if (at == slots_.end()) return;
  at->second.poll.reset();
  slots_.erase(at);
}

std::vector<ipc::HeldSlot> Listeners::held() const {
  std::vector<ipc::HeldSlot> out;
  out.reserve(slots_.size());
  for (const auto& [number, slot] : slots_) {
    out.push_back({{slot.cookie, number, slot.listener}, slot.socket.get()});
  }
  return out;
}

void Listeners::clear() {
  while (!slots_.empty()) remove(slots_.begin()->first);
}

void Listeners::review() {
  for (auto& [number, slot] : slots_) {
    const bool polled = !starved_ && owner_.wanted(slot.inbound);
    if (polled != slot.polled) slot.poll->watch(polled, false);
    slot.polled = polled;
  }
}

void Listeners::accept_some(Slot& slot) {
  for (int n = 0; n < kAcceptsPerTurn; ++n) {
    if (starved_ || !owner_.wanted(slot.inbound)) return review();
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    auto* address = reinterpret_cast<sockaddr*>(&storage);
    Fd socket(::accept4(slot.socket.get(), address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket) {
      switch (errno) {
        case EAGAIN: return;
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM:
          // The kernel's queue holds the clients meanwhile.
          log_event(log::Level::warning, "edge", "no connection could be accepted", kv("reason", std::strerror(errno)));
          starved_ = true;
          loop_.arm(retry_, kRetry);
          return review();
        default: continue;  // this client is gone already
      }
    }
    const auto source = endpoint_from(address);
    owner_.accepted({std::move(socket), source.value_or(Endpoint{}), slot.inbound});
  }
}

}  // namespace ebb::edge
