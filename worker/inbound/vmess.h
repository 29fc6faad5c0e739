// A VMess client's request, or silence.
#pragma once

#include "common/base/result.h"
#include "common/base/time.h"
#include "common/config/config.h"
#include "common/net/conversation.h"
#include "common/net/task.h"
#include "common/protocol/vmess/server.h"
#include "worker/inbound/door.h"

namespace ebb::inbound {

/// What every VMess handshake of one inbound needs. Outlives them.
struct Gate {
  vmess::UserTable& users;
  vmess::ReplayGuard& guard;
  crypto::RandomSource& random;
  vmess::ServerOptions options;
  Duration limit = std::chrono::seconds(60);  // from accept: header and drain together
  UnixSeconds (*unix_now)() = nullptr;        // real time, asked whenever it is needed
};

/// What a client may have unread at once: above the longest header, and above the longest drain, so that a probe which
/// sends more is left unread like at every stock server.
inline constexpr std::size_t kMaxHandshakeBytes = 4096;

struct VmessRequest {
  std::size_t user = 0;  // index in the gate's table
  Target target;
  vmess::SessionKeys keys;
};

/// Reads the request header; what follows it stays in the conversation. Nothing is ever written. After an error close
/// the connection plainly, at once: draining (reading on for a while, so that a prober
/// learns nothing from when we close) is over by then. Errors: auth ("replayed header": for
/// logs only), timeout, closed.
net::Task<Result<VmessRequest>> accept_vmess(net::Conversation& client, const Gate& gate);

/// A door that speaks VMess; `settings.protocol` is that. Errors: config (users that cannot be used), protocol (there
/// is no replay table).
Result<Entrance> enter_vmess(const config::Inbound& settings, const DoorKit& kit);

}  // namespace ebb::inbound
