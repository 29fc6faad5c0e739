#include "worker/broker/stream_watch.h"

#include <utility>

#include "common/base/log.h"

namespace ebb::broker {

StreamWatch::StreamWatch(reverse::Health& health, const reverse::Health::Ticket& ticket, const tunnel::Tunnel& tunnel,
                         const reverse::PortalTunnel& plan, const net::Loop& loop, std::optional<Names> names)
    : health_(health), ticket_(ticket), tunnel_(tunnel), plan_(plan), loop_(loop), names_(std::move(names)) {}

StreamWatch::~StreamWatch() {
  if (!told_) health_.dropped(ticket_);
}

void StreamWatch::answered() {
  told_ = true;
  health_.reached(ticket_);
}

void StreamWatch::ended(const Error* failure, bool client_ended) {
  if (tunnel_.dead()) return;  // a lost tunnel says nothing of the origin,
  const bool ours = plan_.peer_hello().has_value();
  if (client_ended && !(ours && failure != nullptr)) return;  // nor does the end with which a bridge answers ours
  told_ = true;
  using Ending = reverse::Health::Ending;
  Ending how = failure == nullptr ? Ending::complete : Ending::aborted;
  if (failure != nullptr && plan_.tells_reasons()) {
    how = reverse::origin_unreached(*failure) ? Ending::unreached : Ending::elsewhere;
  }
  health_.ended(ticket_, how, ours, loop_.now());
  if (failure == nullptr || !names_ || !log_enabled(log::Level::info)) return;
  log_event(log::Level::info, "portal", "visitor was not served", kv("tag", names_->tag), kv("target", names_->target),
            kv("visitor", names_->visitor ? names_->visitor->text() : std::string()), kv("peer", tunnel_.peer()),
            kv("tunnel", tunnel_.id().value), kv("reason", *failure));
}

}  // namespace ebb::broker
