#include "worker/inbound/replay_guard.h"

#include <algorithm>

namespace ebb::inbound {
namespace {

ipc::ReplayKind shared_kind(vmess::ReplayGuard::Kind kind) {
  switch (kind) {
    case vmess::ReplayGuard::Kind::auth_id: return ipc::ReplayKind::auth_id;
    case vmess::ReplayGuard::Kind::session: return ipc::ReplayKind::session;
    case vmess::ReplayGuard::Kind::taint: break;
  }
  return ipc::ReplayKind::taint;
}

}  // namespace

bool SharedReplayGuard::insert(Kind kind, ConstSpan bytes, UnixSeconds expires, UnixSeconds now) {
  const auto ttl = std::clamp<UnixSeconds>(expires - now, 1, ipc::ReplayTable::kMaxTtl);
  return table_.insert(shared_kind(kind), bytes, static_cast<std::uint32_t>(ttl), ipc::ReplayTable::boot_seconds()) ==
         ipc::ReplayVerdict::fresh;
}

bool SharedReplayGuard::contains(Kind kind, ConstSpan bytes, UnixSeconds) const {
  return table_.contains(shared_kind(kind), bytes, ipc::ReplayTable::boot_seconds());
}

}  // namespace ebb::inbound
