#include "worker/outbound/vmess.h"

#include <chrono>

#include "common/protocol/vmess/client.h"
#include "worker/layers/vmess/vmess.h"

namespace ebb::outbound {
namespace {

UnixSeconds unix_now() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

vmess::ClientOptions client_options(const config::VmessUser& user) {
  vmess::ClientOptions out;
  out.user = {user.id, user.alter_id};
  switch (user.security) {
    case config::VmessSecurity::auto_: out.security = vmess::auto_security(); break;
    case config::VmessSecurity::aes_128_gcm: out.security = vmess::Security::aes_128_gcm; break;
    case config::VmessSecurity::chacha20_poly1305: out.security = vmess::Security::chacha20_poly1305; break;
    case config::VmessSecurity::none:
    case config::VmessSecurity::zero: out.security = vmess::Security::none; break;
  }
  out.options = user.security == config::VmessSecurity::zero ? 0 : vmess::usual_options(out.security);
  return out;
}

}  // namespace

Result<Way> vmess_way(const config::Outbound& outbound, const Target& target, const WayKit& kit) {
  const auto& settings = std::get<config::VmessOutbound>(outbound.protocol);
  const auto& server = settings.servers[kit.turn++ % settings.servers.size()];
  const auto& user = server.users[kit.random.below(static_cast<std::uint32_t>(server.users.size()))];
  const auto handshake = vmess::ClientHandshake::make(client_options(user), target, unix_now(), kit.random);
  if (!handshake) return std::unexpected{explain(handshake.error()).in("VMess request for " + target.text())};
  Way out;
  out.plan.host = server.address;
  out.plan.port = server.port;
  out.stack.push(std::make_unique<layers::VmessClientLayer>(*handshake, kit.random));
  return out;
}

}  // namespace ebb::outbound
