#include "worker/broker/plant.h"

#include <algorithm>
#include <cstdlib>
#include <set>
#include <utility>

#include "common/base/log.h"
#include "common/config/people.h"
#include "common/crypto/hash.h"
#include "worker/protocols/table.h"

namespace ebb::broker {
namespace {

/// The same in every process of this instance, one after the other: who is chosen by it stays chosen.
std::array<std::uint8_t, 16> node_id(crypto::RandomSource& random) {
  std::array<std::uint8_t, 16> out;
  const char* instance = std::getenv("EBB_INSTANCE");  // set by the supervisor
  if (instance == nullptr) {
    random.fill(out);
  } else {
    const auto digest = crypto::sha256({as_bytes("ebbgate node"), as_bytes(instance)});
    std::copy_n(digest.begin(), out.size(), out.begin());
  }
  return out;
}

}  // namespace

Plant::Plant(GenerationTables tables, outbound::Surroundings around, relay::Relays& relays, Visitors& visitors,
             std::function<void(PortalKey, Portal&)> pool_changed)
    : tables_(std::move(tables)),
      started_loops_(tables_.current().config.settings.broker_loops),
      relays_(relays),
      visitors_(visitors),
      flows_(around.loop),
      pool_changed_(std::move(pool_changed)),
      portal_home_{around, {}, relays, {}},
      bridge_home_{around, nullptr, nullptr, nullptr, relays, {}, {}, {}, &flows_, {}},
      sweep_(
          [](void* self) {
            static_cast<Plant*>(self)->old_portals_.clear();
            static_cast<Plant*>(self)->old_bridges_.clear();
          },
          this),
      doors_(
          around.loop, flows_,
          {[this](const Endpoint& local) { return inbound_at(local); },
           [this](const flow::Doors::Inbound& door, const VisitorAddress& client) { return open_flow(door, client); }}),
      doors_wait_([](void* self) { static_cast<Plant*>(self)->review_doors(); }, this) {
  reverse::Hello hello;
  hello.node_id = node_id(around.random);
  portal_home_.account = [this](const Person& person) { return account_of(person); };
  portal_home_.hello = bridge_home_.hello = hello;
  bridge_home_.open_in_portal = [this](std::size_t index, const Target& target,
                                       const VisitorAddress& visitor) -> std::unique_ptr<relay::Side> {
    Portal* to = portal(tables_.current().portals[index]);
    return to != nullptr ? to->open(target, 0, visitor) : nullptr;
  };
  bridge_home_.open_flow_in_portal = [this](std::size_t index, const Target& target,
                                            const VisitorAddress& visitor) -> std::unique_ptr<flow::DatagramEnd> {
    Portal* to = portal(tables_.current().portals[index]);
    return to != nullptr ? to->open_flow(target, 0, visitor) : nullptr;
  };
  follow_current();
  reconcile();
}

Plant::~Plant() = default;

/// Users of all inbounds are counted in file order.
PortalHome::Account Plant::account_of(const Person& person) const {
  const auto& table = tables_.current();
  PortalHome::Account out;
  bool found = false;
  std::uint32_t place = 0;
  for (std::size_t i = 0; i < table.inbounds.size(); ++i) {
    for (const auto& user : config::users_of(table.config.inbounds[i])) {
      const bool here = table.inbounds[i] == person.inbound;
      if (user.id == person.id && (here || !std::exchange(found, true))) out = {place, user.email};
      if (user.id == person.id && here) return out;
      ++place;
    }
  }
  return out;
}

Portal* Plant::portal(PortalKey key) const {
  const auto at = portals_.find(key);
  return at != portals_.end() ? at->second.get() : nullptr;
}

std::vector<const Portal*> Plant::portals() const {
  std::vector<const Portal*> out;
  for (const auto& wanted : tables_.portals()) {
    if (const Portal* each = portal(wanted.key)) out.push_back(each);
  }
  return out;
}

std::vector<const bridge::Bridge*> Plant::bridges() const {
  std::vector<const bridge::Bridge*> out;
  for (const auto& wanted : tables_.bridges()) {
    if (const auto at = bridges_.find(wanted.key); at != bridges_.end()) out.push_back(at->second.get());
  }
  return out;
}

void Plant::start(bool successor) {
  started_ = true;
  const auto& timers = config().settings.timers;
  read_from_ = portal_home_.around.loop.now() + (successor ? timers.broker_move : timers.tunnel_wait);
  portal_home_.around.loop.arm_at(doors_wait_, read_from_);
  doors_.serve();
  if (draining_) return;  // resume() starts them
  for (auto& [key, each] : bridges_) each->start();
}

void Plant::drain(Duration spread) {
  draining_ = true;
  for (auto& [key, each] : bridges_) each->drain();
  for (auto& [key, each] : portals_) each->drain(spread);
  review_doors();
}

void Plant::resume() {
  if (!std::exchange(draining_, false)) return;
  moved_.clear();
  review_doors();
  for (auto& [key, each] : portals_) each->resume();
  if (!started_) return;
  for (auto& [key, each] : bridges_) each->resume();
}

void Plant::set_moved(std::set<std::string> portals) {
  if (!draining_) return;
  moved_ = std::move(portals);
  for (auto& [key, each] : portals_) each->set_moved(moved_.contains(each->name()) && !bridges_may_enter(*each));
  review_doors();
}

/// Streams out of a bridge's tunnels stay in this process: a portal they may be routed to has to keep its own tunnels
/// as long as there are any. Judged by what rules can match of such a stream at all: its inbound tag.
bool Plant::bridges_may_enter(const Portal& portal) const {
  const auto& config = tables_.current().config;
  const auto& tag = portal.settings().tag;
  for (const auto& [key, each] : bridges_) {
    if (each->links().empty()) continue;
    if (config.outbounds.empty()) return true;  // a portal is the default
    for (const auto& rule : config.rules) {
      const auto& from = rule.inbound_tags;
      if (rule.outbound_tag != tag) continue;
      if (!from || std::ranges::find(*from, each->settings().tag) != from->end()) return true;
    }
  }
  return false;
}

std::vector<std::string> Plant::live() const {
  std::vector<std::string> out;
  for (const Portal* each : portals()) {
    if (each->serving()) out.push_back(each->name());
  }
  return out;
}

std::vector<const Portal*> Plant::unmoved() const {
  std::vector<const Portal*> out = portals();
  std::erase_if(out, [this](const Portal* each) { return moved_.contains(each->name()) || each->live() == 0; });
  return out;
}

bool Plant::without_tunnels() const {
  return std::ranges::all_of(portals_, [](const auto& each) { return each.second->links().empty(); }) &&
         std::ranges::all_of(
             bridges_, [](const auto& each) { return each.second->links().empty() && each.second->dialling() == 0; });
}

Plant::Kicked Plant::kick_tunnels(const Portal::Which& which, const Error& why) {
  Kicked out;
  for (auto& [key, each] : portals_) {
    const Kicked more = each->kick(which, why);
    out.tunnels += more.tunnels;
    out.visitors += more.visitors;
  }
  return out;
}

Plant::Kicked Plant::kick(TunnelId tunnel) {
  const Error why{Errc::closed, "the tunnel was kicked", {}};
  Kicked out = kick_tunnels([tunnel](const PortalLink& link) { return link.id() == tunnel; }, why);
  for (auto& [key, each] : bridges_) {
    const auto streams = each->kick(tunnel, why);
    if (!streams) continue;
    ++out.tunnels;
    out.visitors += *streams;
  }
  return out;
}

Plant::Kicked Plant::kick(std::string_view user) {
  const auto people = tables_.people(user);
  const std::string who = people.email.empty() ? "one without an e-mail" : people.email;
  const Error why{Errc::closed, "the user was kicked: " + who, {}};
  Kicked out =
      kick_tunnels([&](const PortalLink& link) { return link.person() && people.who.contains(*link.person()); }, why);
  const auto others = [&](const Person& person) { return !people.who.contains(person); };
  out.visitors += visitors_.end_unless(others, why) + flow_visitors_.end_unless(others);
  if (out.tunnels + out.visitors > 0) {
    log_event(log::Level::info, "broker", "user was kicked", kv("user", who), kv("tunnels", out.tunnels),
              kv("visitors", out.visitors));
  }
  return out;
}

std::size_t Plant::drain_tunnels(const Portal::Which& which) {
  std::size_t out = 0;
  for (auto& [key, each] : portals_) out += each->drain_some(which);
  return out;
}

std::size_t Plant::drain(TunnelId tunnel) {
  std::size_t out = drain_tunnels([tunnel](const PortalLink& link) { return link.id() == tunnel; });
  for (auto& [key, each] : bridges_) out += each->drain(tunnel) ? 1 : 0;
  return out;
}

std::size_t Plant::drain(std::string_view user) {
  const auto people = tables_.people(user);
  return drain_tunnels([&](const PortalLink& link) { return link.person() && people.who.contains(*link.person()); });
}

std::string Plant::needs_restart(const config::Config& config) const {
  const auto text = [](std::uint32_t loops) { return loops == 0 ? std::string("auto") : std::to_string(loops); };
  const std::uint32_t wanted = config.settings.broker_loops;
  if (wanted == started_loops_) return {};
  return "broker.loops changes from " + text(started_loops_) + " to " + text(wanted);
}

Result<> Plant::prepare(Gen gen, config::Config config) {
  auto prepared = tables_.prepare(gen, std::move(config), portal_home_.around.loop.now());
  if (prepared) reconcile();
  return prepared;
}

std::optional<Plant::Removed> Plant::commit(Gen gen) {
  if (!tables_.commit(gen, portal_home_.around.loop.now())) return std::nullopt;
  follow_current();
  return reconcile();
}

std::optional<Plant::Removed> Plant::abort(Gen gen) {
  if (!tables_.abort(gen, portal_home_.around.loop.now())) return std::nullopt;
  return reconcile();
}

/// Nothing keeps the old ones: dials carry their plans, relays their times.
void Plant::follow_current() {
  const auto& table = tables_.current();
  outbounds_ = std::make_unique<outbound::Outbounds>(table.config, portal_home_.around, protocols::find_way);
  portal_home_.settings = table.config.settings;
  bridge_home_.config = &table.config;
  bridge_home_.router = &table.router;
  bridge_home_.outbounds = outbounds_.get();
  flows_.set_idle(table.config.settings.timers.udp_idle);
  review_doors();
}

void Plant::add_portal(PortalKey key, const config::Portal& settings) {
  auto& added = portals_[key] = std::make_unique<Portal>(settings, portal_home_);
  added->on_change = [this, key](Portal& changed) { pool_changed_(key, changed); };
  if (draining_) added->drain();
}

Plant::Removed Plant::reconcile() {
  const Error gone{Errc::closed, "it is not in the configuration any more", {}};
  Removed removed;
  std::set<PortalKey> portals;
  for (const auto& wanted : tables_.portals()) {
    portals.insert(wanted.key);
    if (Portal* there = portal(wanted.key)) {
      there->update(*wanted.settings);
    } else {
      add_portal(wanted.key, *wanted.settings);
    }
  }
  for (auto at = portals_.begin(); at != portals_.end();) {
    if (portals.contains(at->first)) {
      ++at;
      continue;
    }
    log_event(log::Level::info, "portal", "portal was removed", kv("tag", at->second->settings().tag));
    at->second->on_change = nullptr;
    at->second->abort(gone);
    removed.push_back(at->first);
    old_portals_.push_back(std::move(at->second));
    at = portals_.erase(at);
  }

  std::set<BridgeKey> bridges;
  for (const auto& wanted : tables_.bridges()) {
    bridges.insert(wanted.key);
    auto& each = bridges_[wanted.key];
    if (each != nullptr) {
      each->update(*wanted.settings);
      continue;
    }
    each = std::make_unique<bridge::Bridge>(*wanted.settings, bridge_home_);
    if (started_ && !draining_) each->start();
  }
  for (auto at = bridges_.begin(); at != bridges_.end();) {
    if (bridges.contains(at->first)) {
      ++at;
      continue;
    }
    log_event(log::Level::info, "bridge", "bridge was removed", kv("tag", at->second->settings().tag));
    at->second->abort(gone);
    old_bridges_.push_back(std::move(at->second));
    at = bridges_.erase(at);
  }
  if (!old_portals_.empty() || !old_bridges_.empty()) portal_home_.around.loop.defer(sweep_);

  const Error revoked{Errc::auth, "the configuration has no such user any more", {}};
  const auto allowed = [this](const Person& person) { return tables_.allows(person); };
  for (auto& [key, each] : portals_) each->abort_unless(allowed, revoked);
  visitors_.end_unless(allowed, revoked);
  flow_visitors_.end_unless(allowed);
  return removed;
}

}  // namespace ebb::broker
