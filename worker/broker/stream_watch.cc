#include "worker/broker/stream_watch.h"

#include <utility>

#include "common/base/log.h"

namespace ebb::broker {

StreamWatch::StreamWatch(reverse::Health& health, const reverse::Health::Ticket& ticket, const tunnel::Tunnel& tunnel,
                         const reverse::PortalTunnel& plan, const net::Loop& loop, Lines& lines,
                         std::optional<Names> names)
    : health_(health),
      ticket_(ticket),
      tunnel_(tunnel),
      plan_(plan),
      loop_(loop),
      lines_(lines),
      names_(std::move(names)) {}

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
  // An abort of a stream that is older than the bridge's knowledge of us comes without a reason.
  if (failure != nullptr && plan_.tells_reasons() && failure->code != Errc::protocol) {
    how = reverse::origin_unreached(*failure) ? Ending::unreached
          : reverse::bridge_failed(*failure)  ? Ending::aborted
                                              : Ending::elsewhere;
  }
  health_.ended(ticket_, how, ours, loop_.now());
  if (failure == nullptr || !names_ || !log_enabled(log::Level::info)) return;
  const auto others = lines_[static_cast<std::size_t>(failure->code)].say(loop_.now());
  if (!others) return;
  log_event(log::Level::info, "portal", "visitor was not served", kv("tag", names_->tag), kv("target", names_->target),
            kv("visitor", names_->visitor ? names_->visitor->text() : std::string()), kv("peer", tunnel_.peer()),
            kv("tunnel", tunnel_.id().value), kv("reason", *failure), kv("others", *others));
}

}  // namespace ebb::broker
