#include "worker/outbound/freedom.h"

namespace ebb::outbound {

Result<Way> freedom_way(const config::Outbound& outbound, const Target& target, const WayKit&) {
  if (target.network != Network::tcp) return std::unexpected{Error{Errc::refused, "datagrams have no connection", {}}};
  const auto& settings = std::get<config::FreedomOutbound>(outbound.protocol);
  Way out;
  out.plan.host = target.host;
  out.plan.port = target.port;
  if (settings.redirect) {
    if (settings.redirect->host) out.plan.host = *settings.redirect->host;
    if (settings.redirect->port != 0) out.plan.port = settings.redirect->port;
  }
  if (out.plan.port == 0)
    return std::unexpected{Error{Errc::unreachable, "port 0 cannot be dialled: " + target.text(), {}}};
  return out;
}

Result<Way> blackhole_way(const config::Outbound&, const Target&, const WayKit&) {
  return std::unexpected{Error{Errc::refused, "a blackhole leads nowhere", {}}};
}

}  // namespace ebb::outbound
