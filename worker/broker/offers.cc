// What becomes of an offer: whose it is, whether it is taken, and what it turns into.
#include <algorithm>
#include <utility>

#include "common/base/log.h"
#include "ipc/state_blob.h"
#include "worker/broker/broker.h"
#include "worker/protocols/table.h"
#include "worker/relay/socket_side.h"

namespace ebb::broker {
namespace {

// A visitor or a bridge who pauses with his window shut: no less than the idle time. Dead tunnels are noticed by pings.
constexpr auto kDeadAfter = std::chrono::seconds(300);

IpAddress address_from(const std::array<std::uint8_t, 16>& mapped) { return IpAddress::from_v6(mapped); }

std::string peer_of(const ipc::OfferRecord& record) {
  return Endpoint{address_from(record.peer), record.peer_port}.text();
}

VisitorAddress visitor_of(const ipc::OfferRecord& record) {
  VisitorAddress out;
  out.source = Endpoint{address_from(record.peer), record.peer_port};
  if (record.local_port != 0) out.local = Endpoint{address_from(record.local), record.local_port};
  return out;
}

std::uint64_t key_of_visitor(const ipc::OfferRecord& record) {
  return std::hash<std::string_view>{}(as_text(record.peer));
}

}  // namespace

std::optional<ipc::PortalKey> Broker::portal_of(ipc::LinkId, const ipc::OfferRecord& record) {
  const auto* table = plant_->tables().find(record.hid);
  if (table == nullptr || record.portal >= table->portals.size()) return std::nullopt;
  if (record.inbound >= table->config.inbounds.size()) return std::nullopt;
  if (record.user != ipc::kNoUser && !GenerationTables::person(*table, record.inbound, record.user)) {
    return std::nullopt;
  }
  return table->portals[record.portal];
}

/// Asked again for who waits: the configuration may have changed meanwhile, and it decides.
ipc::Choice Broker::choose(ipc::PortalKey key, const ipc::OfferRecord& record, ConstSpan blob) {
  if (record.klass != ipc::OfferClass::raw) {
    const auto decoded = ipc::decode_blob(blob);
    if (!decoded || !protocols::restore(*decoded, random_)) {
      return ipc::Choice::refuse(ipc::RefuseReason::bad_state);
    }
  }
  const Portal* portal = plant_->portal(key);
  const auto* table = plant_->tables().find(record.hid);
  if (portal == nullptr || table == nullptr) return ipc::Choice::refuse(ipc::RefuseReason::no_portal);
  const auto person = GenerationTables::person(*table, record.inbound, record.user);
  if (person && !plant_->tables().allows(*person)) return ipc::Choice::refuse(ipc::RefuseReason::no_portal);
  if (record.role == ipc::OfferRole::tunnel) return ipc::Choice::take(0);
  // One message takes many: each needs a place of his own, or he is taken only to be dropped.
  const auto reserved = reserved_.find(key);
  if (!portal->has_room(reserved != reserved_.end() ? reserved->second : 0)) return ipc::Choice::park();
  ++reserved_[key];
  return ipc::Choice::take(key);
}

/// The ticket of a visitor is his portal, that of a tunnel 0.
void Broker::release(std::uint64_t ticket) {
  const auto reserved = reserved_.find(static_cast<PortalKey>(ticket));
  if (reserved != reserved_.end() && --reserved->second == 0) reserved_.erase(reserved);
}

void Broker::own(ipc::OwnedOffer offer) {
  release(offer.ticket);
  protocols::Travelling client;
  std::optional<Target> target;
  if (!offer.blob.empty()) {
    const auto blob = ipc::decode_blob(offer.blob);
    if (!blob) return;  // choose() decoded it
    auto restored = protocols::restore(*blob, random_);
    if (!restored) return;  // never as plain bytes
    client = std::move(*restored);
    if (const auto bytes = blob->get(ipc::Tlv::meta)) {
      if (const auto meta = ipc::decode_meta(*bytes)) target = meta->target;
    }
  }
  const auto& record = offer.record;
  Portal* portal = plant_->portal(offer.portal);
  const auto* table = plant_->tables().find(record.hid);
  if (portal == nullptr || table == nullptr) return;  // choose() found both
  const auto person = GenerationTables::person(*table, record.inbound, record.user);
  net::tune_socket(offer.fd.get(), kDeadAfter);
  auto stream = std::make_unique<net::TcpStream>(loop_, std::move(offer.fd));
  if (record.role == ipc::OfferRole::tunnel) {
    return portal->add_tunnel(
        {std::move(stream), std::move(client.layers), std::move(client.unread), peer_of(record), person});
  }
  const auto& inbound = table->config.inbounds[record.inbound];
  const auto* door = std::get_if<config::DokodemoInbound>(&inbound.protocol);
  if (!target && door != nullptr) target = Target{Network::tcp, door->address, door->port};
  if (!target) return stream->reset();
  if (target->network == Network::udp) {
    return own_datagrams(*portal, *target, record, person, std::move(client.layers), std::move(stream),
                         std::move(client.unread));
  }
  const std::uint32_t level = door != nullptr ? door->level : 0;
  std::unique_ptr<relay::SocketSide> visitor;
  if (person) {
    visitor = std::make_unique<Visitor>(visitors_, *person, loop_, blocks_, std::move(client.layers));
  } else {
    visitor = std::make_unique<relay::SocketSide>(loop_, blocks_, std::move(client.layers));
  }
  relay::SocketSide& socket = *visitor;
  std::unique_ptr<relay::Side> side = std::move(visitor);
  if (!portal->serve(side, *target, table->config.level(level), key_of_visitor(record), visitor_of(record))) {
    tell_refused(*portal, record);
    return stream->reset();
  }
  socket.attach(std::move(stream), std::move(client.unread));
}

void Broker::tell_refused(const Portal& portal, const ipc::OfferRecord& record) {
  const auto others = refused_.say(loop_.now());
  if (!others) return;
  log_event(log::Level::info, "portal", "visitor was refused: no tunnel takes it", kv("tag", portal.settings().tag),
            kv("peer", peer_of(record)), kv("others", *others));
}

/// A connection whose chunks are datagrams.
void Broker::own_datagrams(Portal& portal, const Target& target, const ipc::OfferRecord& record,
                           const std::optional<Person>& person, layers::Stack stack,
                           std::unique_ptr<net::TcpStream> stream, Bytes unread) {
  auto origin =
      person && !stack.empty() ? portal.open_flow(target, key_of_visitor(record), visitor_of(record)) : nullptr;
  if (origin == nullptr) {
    tell_refused(portal, record);
    return stream->reset();
  }
  auto end = std::make_unique<flow::Listed<Person>>(plant_->flow_visitors(), *person, loop_, blocks_, std::move(stack));
  auto& visitor = *end;
  plant_->flows().start(std::move(end), std::move(origin));
  visitor.attach(std::move(stream), std::move(unread));
}

}  // namespace ebb::broker
