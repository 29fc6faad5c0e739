#include "worker/broker/portal.h"

#include <algorithm>
#include <array>
#include <utility>

#include "common/base/log.h"
#include "worker/broker/stream_watch.h"
#include "worker/flow/mux_end.h"

namespace ebb::broker {
namespace {

constexpr std::size_t kMaxRemembered = 4096;
constexpr std::size_t kManyHeldUp = 8;  // tunnels of a bridge: from here on who causes it gets no further ones

/// Tunnels of one user of one inbound come from one bridge, as far as a stock bridge lets us know.
std::uint64_t key_of(const TunnelOffer& offer) {
  constexpr std::uint64_t kByPeer = std::uint64_t{1} << 63;
  if (offer.person) {
    return (std::hash<UserId>{}(offer.person->id) + offer.person->inbound.value * 0x9e3779b97f4a7c15u) & ~kByPeer;
  }
  return std::hash<std::string>{}(offer.peer.substr(0, offer.peer.rfind(':'))) | kByPeer;
}

std::optional<reverse::Dialect> forced_dialect(config::Dialect dialect) {
  switch (dialect) {
    case config::Dialect::auto_: return std::nullopt;
    case config::Dialect::v2ray: return reverse::Dialect::v2ray;
    case config::Dialect::v2fly: return reverse::Dialect::v2fly;
    case config::Dialect::xray: return reverse::Dialect::xray;
  }
  return std::nullopt;
}

reverse::PickPolicy pick_policy(config::PickPolicy policy) {
  switch (policy) {
    case config::PickPolicy::least: return reverse::PickPolicy::least;
    case config::PickPolicy::roundrobin: return reverse::PickPolicy::roundrobin;
    case config::PickPolicy::hash: return reverse::PickPolicy::hash;
    case config::PickPolicy::order: return reverse::PickPolicy::order;
  }
  return reverse::PickPolicy::least;
}

tunnel::SourceLedger::Key source_of(const VisitorAddress& visitor) {
  return visitor.source ? tunnel::SourceLedger::key_of(visitor.source->ip) : 0;
}

}  // namespace

// --- PortalLink ------------------------------------------------------------------------------------------------------

PortalLink::PortalLink(Portal& portal, TunnelOffer& offer)
    : Link(portal.home_.around.loop, portal.home_.around.blocks, std::move(offer.stack), portal.tunnel_limits(),
           offer.peer,
           std::make_unique<reverse::PortalTunnel>(portal.tunnel_settings(offer), portal.home_.around.loop.now())),
      portal_(portal),
      bridge_key_(key_of(offer)),
      person_(offer.person),
      drain_([](void* self) { static_cast<PortalLink*>(self)->drain_in(Duration(0)); }, this) {
  look_up_account();
  identify();
}

void PortalLink::identify() {
  const auto& hello = plan().peer_hello();
  greeted_ = hello.has_value();
  bridge_ = reverse::bridge_identity(person_ ? std::optional(person_->id) : std::nullopt, address(),
                                     hello ? &*hello : nullptr);
}

void PortalLink::look_up_account() {
  if (person_ && portal_.home_.account) account_ = portal_.home_.account(*person_);
}

void PortalLink::help_came() {
  if (dead()) return;
  plan_.help_came(loop_.now());
  on_tunnel_moved();
  tunnel_.pump();  // its timer
}

void PortalLink::drain_in(Duration after) {
  if (dead()) return;
  if (after > Duration(0)) return loop_.arm(drain_, after);
  drain_.disarm();
  plan_.drain(loop_.now());
  on_tunnel_moved();
  tunnel_.pump();
}

void PortalLink::resume_service() {
  drain_.disarm();
  plan_.resume(loop_.now());
  on_tunnel_moved();
  tunnel_.pump();
}

void PortalLink::start(TunnelOffer offer) { tunnel_.attach(std::move(offer.stream), std::move(offer.unread)); }

void PortalLink::on_tunnel_moved() {
  if (!greeted_ && plan_.peer_hello()) identify();
  // Visitors wait for room wherever it comes from: a stream's end, an answer after silence, a tunnel read again.
  const Standing now{plan_.state(), plan_.pickable_as_last(loop_.now())};
  if (std::exchange(seen_, now) != now) portal_.review_soon();
}

void PortalLink::on_congestion_changed() {
  plan_.set_congested(tunnel_.congested(), loop_.now());
  on_tunnel_moved();
  portal_.review_soon();
}

Duration PortalLink::quiet_before_end() const { return portal_.home_.settings.timers.half_close_hold; }

void PortalLink::on_tunnel_over(const Error& why) { portal_.link_over(*this, why); }

Bytes PortalLink::header_for(Network network, const VisitorAddress& visitor) const {
  if (plan_.peer_hello()) return {};
  return proxy_protocol::encoded(portal_.header_version(), network, visitor);
}

std::unique_ptr<tunnel::MuxSide> PortalLink::open(const Target& target, const VisitorAddress& visitor) {
  if (dead()) return nullptr;
  std::array<std::uint8_t, mux::kMaxHead> head;
  tunnel_.pump();  // what was agreed goes out in front of the first stream it holds for
  if (dead()) return nullptr;
  const Bytes header = header_for(target.network, visitor);
  const auto opened = plan_.open(target, nullptr, head, header.size(), visitor);
  if (!opened) return nullptr;
  tunnel_.send_frames(ConstSpan(head).first(opened->head_bytes));
  if (!header.empty()) tunnel_.send_frames(header);
  if (dead()) return nullptr;  // its peer lets pile up what we send: that was too much
  auto side = tunnel_.make_side(opened->stream, source_of(visitor));
  on_tunnel_moved();
  tunnel_.pump();  // it may have been the last one before it drains
  return side;
}

/// New goes without data: whatever address the peer may be told behind it, none takes it for something else
/// (common/reverse/PROTOCOL.md, source address).
std::unique_ptr<flow::DatagramEnd> PortalLink::open_flow(const Target& target, const VisitorAddress& visitor) {
  if (dead()) return nullptr;
  std::array<std::uint8_t, mux::kMaxHead> head;
  tunnel_.pump();  // as open()
  if (dead()) return nullptr;
  const auto opened = plan_.open(target, nullptr, head, 0, visitor);
  if (!opened) return nullptr;
  tunnel_.send_frames(ConstSpan(head).first(opened->head_bytes));
  if (dead()) return nullptr;
  auto end = std::make_unique<flow::MuxEnd>(tunnel_, opened->stream);
  end->lead_with(header_for(target.network, visitor));
  on_tunnel_moved();
  tunnel_.pump();
  return end;
}

// --- Portal ----------------------------------------------------------------------------------------------------------

Portal::Portal(const config::Portal& settings, PortalHome& home)
    : settings_(settings),
      home_(home),
      pool_(pick_policy(settings.policy)),
      review_later_([](void* self) { static_cast<Portal*>(self)->review(); }, this) {}

Portal::~Portal() = default;

reverse::PortalTunnelSettings Portal::tunnel_settings(const TunnelOffer& offer) const {
  reverse::PortalTunnelSettings out;
  out.domain = settings_.domain;
  out.forced = forced_dialect(settings_.dialect);
  if (const auto known = remembered_.find(key_of(offer)); known != remembered_.end()) {
    out.remembered = known->second;
  }
  out.hello = home_.hello;
  out.seed = home_.around.random.below(0xffffffff);
  out.max_streams = max_streams();
  out.budget = home_.settings.limits.tunnel_buffer;
  out.know_first = header_version() != proxy_protocol::Version::none;
  return out;
}

tunnel::TunnelLimits Portal::tunnel_limits() const {
  tunnel::TunnelLimits out = outbound::tunnel_limits(home_.settings);
  out.sources = &home_.sources;
  return out;
}

std::size_t Portal::max_streams() const {
  const std::size_t limit = home_.settings.limits.max_streams_per_tunnel;
  return limit > 0 ? limit : reverse::PortalTunnelSettings{}.max_streams;
}

void Portal::add_tunnel(TunnelOffer offer) {
  auto link = std::make_unique<PortalLink>(*this, offer);
  if (const auto others = opened_lines_.say(home_.around.loop.now(), Sparingly::kEach)) {
    log_event(log::Level::info, "portal", "tunnel opened", kv("tag", settings_.tag), kv("peer", link->peer()),
              kv("others", *others));
  }
  for (const auto& each : links_) {
    if (each->bridge_key() == link->bridge_key()) each->help_came();
  }
  links_.push_back(std::move(link));
  PortalLink& added = *links_.back();
  added.start(std::move(offer));
  if (draining_) added.drain_in(Duration(0));
  review_soon();
}

void Portal::drain(Duration spread) {
  draining_ = true;
  const auto steps = static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::milliseconds>(spread).count());
  for (const auto& link : links_) {
    if (link->dead()) continue;
    link->drain_in(std::chrono::milliseconds(home_.around.random.below(steps + 1)));
  }
  review_soon();
}

void Portal::set_moved(bool moved) {
  if (std::exchange(moved_, moved) != moved) review_soon();
}

void Portal::resume() {
  set_moved(false);
  if (!std::exchange(draining_, false)) return;
  for (const auto& link : links_) {
    if (!link->dead()) link->resume_service();
  }
  review_soon();
}

/// Whether he had better join those that are held up already: his address holds more than its share, and so many
/// tunnels are held up that each further one would be lost to others. Who comes from this machine is many, behind a
/// proxy.
bool Portal::crowds(const VisitorAddress& visitor) const {
  if (!visitor.source || visitor.source->ip.loopback()) return false;
  if (home_.sources.bytes(source_of(visitor)) <= tunnel_limits().source_buffer) return false;
  std::map<std::uint64_t, std::size_t> held_up;  // by bridge, of which each may have so many
  for (const auto& link : links_) held_up[link->bridge_key()] += link->plan().congested() ? 1 : 0;
  return std::ranges::all_of(held_up, [](const auto& each) { return each.second >= kManyHeldUp; });
}

PortalLink* Portal::pick(const Target& target, std::uint64_t visitor_key, const VisitorAddress& visitor) const {
  const TimePoint now = home_.around.loop.now();
  const bool crowds_them = crowds(visitor);
  pool_.begin(target, now);
  for (const auto& link : links_) {
    reverse::Candidate candidate;
    candidate.id = link->id();
    const auto& plan = link->plan();
    const bool joins =
        plan.congested() && plan.could_serve(now) && plan.state() != reverse::PortalTunnel::State::draining;
    candidate.usable = !link->dead() && (crowds_them ? joins : plan.pickable(now));
    candidate.last_resort = !link->dead() && plan.pickable_as_last(now);
    candidate.congested = plan.congested();
    candidate.streams = link->plan().user_streams();
    candidate.bytes_in_flight = link->tunnel().unsent();
    candidate.bridge = link->bridge();
    if (const auto& hello = link->plan().peer_hello()) candidate.weight = hello->weight;
    pool_.add(candidate, link->account().place, link->settled());
  }
  const auto index = pool_.choose(visitor_key);
  return index ? links_[*index].get() : nullptr;
}

bool Portal::has_room(std::size_t before) const {
  const TimePoint now = home_.around.loop.now();
  std::size_t room = 0;
  return std::any_of(links_.begin(), links_.end(), [&](const auto& link) {
    if (!link->dead() && link->plan().pickable_as_last(now)) room += link->plan().room();
    return room > before;
  });
}

std::unique_ptr<relay::Side> Portal::open(const Target& target, std::uint64_t visitor_key,
                                          const VisitorAddress& address) {
  return open_on_link(target, visitor_key, address).side;
}

Portal::Opened Portal::open_on_link(const Target& target, std::uint64_t visitor_key, const VisitorAddress& address) {
  // A tunnel may refuse at the last moment (ids used up): each is tried at most once.
  for (std::size_t tries = links_.size(); tries > 0; --tries) {
    PortalLink* link = pick(target, visitor_key, address);
    if (link == nullptr) return {};
    if (auto side = link->open(target, address)) return {std::move(side), link};
  }
  return {};
}

std::unique_ptr<flow::DatagramEnd> Portal::open_flow(const Target& target, std::uint64_t visitor_key,
                                                     const VisitorAddress& address) {
  for (std::size_t tries = links_.size(); tries > 0; --tries) {  // as open()
    PortalLink* link = pick(target, visitor_key, address);
    if (link == nullptr) return nullptr;
    if (auto end = link->open_flow(target, address)) return end;
  }
  return nullptr;
}

bool Portal::serve(std::unique_ptr<relay::Side>& visitor, const Target& target, const config::PolicyLevel& level,
                   std::uint64_t visitor_key, const VisitorAddress& address) {
  auto [side, link] = open_on_link(target, visitor_key, address);
  if (!side) return false;
  auto& relay = home_.relays.start(std::move(visitor), std::move(side), outbound::relay_times(level));
  const auto& loop = home_.around.loop;
  const auto ticket = pool_.opened(link->bridge(), loop.now());
  std::optional<StreamWatch::Names> names;
  if (log_enabled(log::Level::info)) names.emplace(settings_.tag, target, address.source);
  relay.watch_origin(std::make_unique<StreamWatch>(pool_.health(), ticket, std::as_const(*link).tunnel(), link->plan(),
                                                   loop, lines_, std::move(names)));
  return true;
}

std::uint16_t Portal::live() const {
  const TimePoint now = home_.around.loop.now();
  return static_cast<std::uint16_t>(std::count_if(links_.begin(), links_.end(), [now](const auto& link) {
    return !link->dead() && (link->plan().pickable(now) || link->plan().pickable_as_last(now));
  }));
}

bool Portal::serving() const {
  const TimePoint now = home_.around.loop.now();
  return std::any_of(links_.begin(), links_.end(),
                     [now](const auto& link) { return !link->dead() && link->plan().pickable(now); });
}

std::uint32_t Portal::streams() const {
  std::uint32_t out = 0;
  for (const auto& link : links_) out += static_cast<std::uint32_t>(link->plan().user_streams());
  return out;
}

void Portal::review() {
  const TimePoint now = home_.around.loop.now();
  std::vector<reverse::PoolMember> members;
  for (const auto& link : links_) {
    if (link->dead()) continue;
    reverse::PoolMember member;
    member.id = link->id();
    member.bridge = link->bridge_key();
    member.draining = link->plan().state() == reverse::PortalTunnel::State::draining;
    member.asked = link->plan().asked_for_another();
    member.congested = link->tunnel().congested();
    members.push_back(member);
    if (const auto dialect = link->plan().dialect_to_remember();
        dialect && (remembered_.size() < kMaxRemembered || remembered_.contains(link->bridge_key()))) {
      remembered_[link->bridge_key()] = *dialect;
    }
  }
  const auto find = [this](TunnelId id) -> PortalLink& {
    return **std::find_if(links_.begin(), links_.end(), [id](const auto& link) { return link->id() == id; });
  };
  for (const TunnelId id : reverse::tunnels_to_ask(members, settings_.tunnels)) {
    find(id).plan().ask_for_another(now);
    find(id).poke();
  }
  const auto replaced = reverse::tunnels_replaced(members);
  auto next = replaced.begin();  // in the order of links_, as members are
  for (const auto& link : links_) {
    const bool has_other = next != replaced.end() && *next == link->id();
    if (has_other) ++next;
    if (link->dead() || link->plan().replaced() == (moved_ || has_other)) continue;
    link->plan().set_replaced(moved_ || has_other);
    link->poke();
  }
  if (on_change) on_change(*this);
}

void Portal::link_over(PortalLink& link, const Error& why) {
  const TimePoint now = home_.around.loop.now();
  const auto lived = std::chrono::duration_cast<std::chrono::seconds>(now - link.since());
  const bool expected = link.kicked() || link.plan().state() == reverse::PortalTunnel::State::draining ||
                        link.plan().end() == reverse::TunnelEnd::drained;
  auto& lines = (expected ? left_lines_ : lost_lines_)[static_cast<std::size_t>(why.code)];
  if (const auto others = lines.say(now, Sparingly::kEach)) {
    log_event(expected ? log::Level::info : log::Level::warning, "portal", "tunnel closed", kv("tag", settings_.tag),
              kv("peer", link.peer()), kv("reason", why), kv("lived_s", lived.count()), kv("others", *others));
  }
  std::erase_if(links_, [&](const auto& each) { return each.get() == &link; });
  review_soon();
}

void Portal::abort(const Error& why) {
  for (auto& link : links_) link->abort(why);
}

void Portal::abort_unless(const std::function<bool(const Person&)>& allowed, const Error& why) {
  for (auto& link : links_) {
    if (link->person() && !allowed(*link->person())) link->abort(why);
  }
}

Portal::Kicked Portal::kick(const Which& which, const Error& why) {
  Kicked out;
  for (const auto& link : links_) {
    if (link->dead() || !which(*link)) continue;
    const std::size_t streams = link->plan().user_streams();
    log_event(log::Level::info, "portal", "tunnel was kicked", kv("tag", settings_.tag), kv("peer", link->peer()),
              kv("tunnel", link->id().value), kv("streams", streams));
    ++out.tunnels;
    out.visitors += streams;
    link->kick(why);
  }
  return out;
}

std::size_t Portal::drain_some(const Which& which) {
  std::size_t out = 0;
  for (const auto& link : links_) {
    if (link->dead() || !which(*link)) continue;
    log_event(log::Level::info, "portal", "tunnel is drained by order", kv("tag", settings_.tag),
              kv("peer", link->peer()), kv("tunnel", link->id().value));
    ++out;
    link->drain_in(Duration(0));
  }
  review_soon();
  return out;
}

void Portal::update(const config::Portal& settings) {
  pool_.set_policy(pick_policy(settings.policy));
  settings_ = settings;
  for (auto& link : links_) {
    link->look_up_account();
    link->tunnel().set_limits(tunnel_limits());
    link->plan().set_max_streams(max_streams());
    link->plan().set_know_first(header_version() != proxy_protocol::Version::none);
  }
  review_soon();
}

}  // namespace ebb::broker
