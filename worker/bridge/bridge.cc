#include "worker/bridge/bridge.h"

#include <algorithm>
#include <array>
#include <utility>

#include "common/base/log.h"
#include "common/crypto/hash.h"
#include "common/protocol/proxy_protocol/header.h"
#include "worker/flow/mux_end.h"

namespace ebb::bridge {
namespace {

// A stream to our own portal is so much less of a reason to dial: with credit no stream holds up its neighbours.
constexpr std::size_t kLighter = 8;

reverse::BridgeTunnelSettings tunnel_settings(const config::Bridge& bridge, const Home& home) {
  reverse::BridgeTunnelSettings out;
  out.domain = bridge.domain;
  out.hello = home.hello;
  out.hello.weight = bridge.weight;
  out.budget = home.config->settings.limits.tunnel_buffer;
  // Two bridges of one process may lead to different services: each is one of its own.
  const auto digest =
      crypto::sha256({home.hello.node_id, as_bytes(bridge.tag), as_bytes("\n"), as_bytes(bridge.domain)});
  std::copy_n(digest.begin(), out.hello.node_id.size(), out.hello.node_id.begin());
  out.seed = home.around.random.below(0xffffffff);
  return out;
}

}  // namespace

// --- BridgeLink ------------------------------------------------------------------------------------------------------

BridgeLink::BridgeLink(Bridge& bridge, layers::Stack stack, std::string peer)
    : Link(bridge.home_.around.loop, bridge.home_.around.blocks, std::move(stack),
           outbound::tunnel_limits(bridge.home_.config->settings), std::move(peer),
           std::make_unique<reverse::BridgeTunnel>(tunnel_settings(bridge.settings_, bridge.home_),
                                                   bridge.home_.around.loop.now())),
      bridge_(bridge),
      settled_([](void* self) { static_cast<BridgeLink*>(self)->bridge_.plan_.tunnel_settled(); }, this) {}

void BridgeLink::start(std::unique_ptr<net::TcpStream> stream) {
  loop_.arm(settled_, reverse::BridgePlan::kSettled);
  tunnel_.attach(std::move(stream));
}

void BridgeLink::on_tunnel_moved() {
  if (seen_state_ == plan_.state() && seen_sessions_ == plan_.sessions()) return;
  seen_state_ = plan_.state();
  seen_sessions_ = plan_.sessions();
  if (!answered_ && seen_sessions_ > 0) {
    answered_ = true;
    bridge_.plan_.tunnel_settled();
  }
  bridge_.review_soon();
}

void BridgeLink::on_stream_opened(StreamId stream, const Target& target, ConstSpan trailing) {
  Home& home = bridge_.home_;
  const auto& tag = bridge_.settings_.tag;
  if (home.has_room && !home.has_room()) {  // one portal may not take what the others' visitors need
    if (const auto others = bridge_.full_.say(bridge_.home_.around.loop.now())) {
      log_event(log::Level::warning, "bridge", "stream was refused: too many connections", kv("tag", tag),
                kv("peer", peer()), kv("others", *others));
    }
    return tunnel_.abort_stream(stream, {reverse::AbortReason::overload});
  }
  routing::Subject subject;
  subject.inbound_tag = tag;
  subject.target = &target;
  const VisitorAddress visitor = plan_.visitor_behind(trailing);
  if (visitor.source) subject.source = &*visitor.source;
  const auto decision = home.router->decide(subject);
  if (target.network == Network::udp) return open_flow(stream, target, visitor, decision);
  log::AccessLine line;
  line.source = subject.source;
  line.target = &target;
  std::unique_ptr<relay::Side> origin;
  if (decision.kind == routing::Decision::Kind::outbound) {
    line.outbound_tag = home.config->outbounds[decision.index].tag;
    origin = home.outbounds->open(decision.index, target);
  } else if (decision.kind == routing::Decision::Kind::portal && home.open_in_portal) {
    line.outbound_tag = home.config->portals[decision.index].tag;
    origin = home.open_in_portal(decision.index, target, visitor);
  }
  if (!origin) return leads_nowhere(stream, target);
  log_access(line);
  relay::Side& to_origin = *origin;
  home.relays.start(tunnel_.make_side(stream), std::move(origin), outbound::relay_times(home.config->level(0)));
  if (const Bytes header = header_for(target.network, visitor); !header.empty()) {
    to_origin.send(header);
    to_origin.flush();
  }
}

/// The datagrams that come with New and after it find the flow in place.
void BridgeLink::open_flow(StreamId stream, const Target& target, const VisitorAddress& visitor,
                           const routing::Decision& decision) {
  Home& home = bridge_.home_;
  log::AccessLine line;
  if (visitor.source) line.source = &*visitor.source;
  line.target = &target;
  std::unique_ptr<flow::DatagramEnd> origin;
  if (decision.kind == routing::Decision::Kind::outbound) {
    line.outbound_tag = home.config->outbounds[decision.index].tag;
    origin = home.outbounds->open_flow(decision.index, target);
  } else if (decision.kind == routing::Decision::Kind::portal && home.open_flow_in_portal) {
    line.outbound_tag = home.config->portals[decision.index].tag;
    origin = home.open_flow_in_portal(decision.index, target, visitor);
  }
  if (!origin || home.flows == nullptr) return leads_nowhere(stream, target);
  log_access(line);
  origin->lead_with(header_for(target.network, visitor));
  home.flows->start(std::make_unique<flow::MuxEnd>(tunnel_, stream), std::move(origin));
}

void BridgeLink::leads_nowhere(StreamId stream, const Target& target) {
  if (const auto others = bridge_.nowhere_.say(loop_.now(), Sparingly::kEach)) {
    log_event(log::Level::warning, "bridge", "stream leads nowhere", kv("tag", bridge_.settings_.tag),
              kv("target", target), kv("others", *others));
  }
  tunnel_.refuse(stream);
}

Bytes BridgeLink::header_for(Network network, const VisitorAddress& visitor) const {
  return proxy_protocol::encoded(proxy_protocol::Version{bridge_.settings_.proxy_protocol}, network, visitor);
}

void BridgeLink::on_tunnel_over(const Error& why) { bridge_.link_over(*this, why); }

// --- Bridge ----------------------------------------------------------------------------------------------------------

Bridge::Bridge(const config::Bridge& settings, Home& home)
    : settings_(settings),
      home_(home),
      plan_({settings.min_tunnels, settings.max_tunnels}),
      timer_([](void* self) { static_cast<Bridge*>(self)->review(); }, this),
      review_later_([](void* self) { static_cast<Bridge*>(self)->review(); }, this) {}

Bridge::~Bridge() = default;

void Bridge::start() {
  dialling_allowed_ = true;
  review_soon();
}

void Bridge::stop_dialling() {
  dialling_allowed_ = false;
  dials_.clear();
  timer_.disarm();
}

void Bridge::drain() {
  stop_dialling();
  for (auto& link : links_) {
    if (!link->dead() && link->plan().announce_restart()) link->poke();
  }
}

void Bridge::resume() {
  start();
  for (auto& link : links_) {
    if (!link->dead() && link->plan().announce_return()) link->poke();
  }
}

BridgeLink* Bridge::link(TunnelId tunnel) const {
  const auto at = std::ranges::find_if(links_, [&](const auto& each) { return each->id() == tunnel && !each->dead(); });
  return at != links_.end() ? at->get() : nullptr;
}

std::optional<std::size_t> Bridge::kick(TunnelId tunnel, const Error& why) {
  BridgeLink* kicked = link(tunnel);
  if (kicked == nullptr) return std::nullopt;
  const std::size_t streams = kicked->plan().user_streams();
  log_event(log::Level::info, "bridge", "tunnel was kicked", kv("tag", settings_.tag), kv("peer", kicked->peer()),
            kv("tunnel", tunnel.value), kv("streams", streams));
  kicked->kick(why);
  return streams;
}

bool Bridge::drain(TunnelId tunnel) {
  BridgeLink* drained = link(tunnel);
  if (drained == nullptr || !drained->plan().peer_hello() || !drained->plan().announce_restart()) return false;
  log_event(log::Level::info, "bridge", "tunnel is drained by order", kv("tag", settings_.tag),
            kv("peer", drained->peer()), kv("tunnel", tunnel.value));
  drained->poke();
  review_soon();
  return true;
}

void Bridge::abort(const Error& why) {
  stop_dialling();
  for (auto& link : links_) link->abort(why);
}

void Bridge::update(const config::Bridge& settings) {
  settings_ = settings;
  plan_.set_settings({settings.min_tunnels, settings.max_tunnels});
  for (auto& link : links_) {
    link->tunnel().set_limits(outbound::tunnel_limits(home_.config->settings));
    if (!link->dead() && link->plan().announce_weight(settings.weight)) link->poke();
  }
  review_soon();
}

reverse::BridgeLoad Bridge::load() const {
  reverse::BridgeLoad out;
  out.dialling = dials_.size();
  for (const auto& link : links_) {
    switch (link->plan().state()) {
      case reverse::BridgeTunnel::State::active:
        if (link->plan().leaving()) {
          ++out.draining;
          break;
        }
        ++out.active;
        out.sessions += link->plan().own_portal() ? link->plan().sessions() / kLighter : link->plan().sessions();
        break;
      case reverse::BridgeTunnel::State::draining: ++out.draining; break;
      case reverse::BridgeTunnel::State::dead: break;
    }
  }
  return out;
}

void Bridge::review() {
  done_dials_.clear();
  if (!dialling_allowed_) return;
  const TimePoint now = home_.around.loop.now();
  for (std::size_t due = plan_.dials_due(load(), now); due > 0; --due) dial();
  if (const auto next = plan_.next_deadline(now)) {
    home_.around.loop.arm_at(timer_, *next);
  }
}

void Bridge::dial() {
  // The way is looked up anew each time: routing decides, servers take turns, names are resolved again.
  const Target target{Network::tcp, settings_.domain, 0};
  routing::Subject subject;
  subject.inbound_tag = settings_.tag;
  subject.target = &target;
  const auto decision = home_.router->decide(subject);
  if (decision.kind != routing::Decision::Kind::outbound) {
    return dial_failed(Error{Errc::refused, "routing sends the bridge's own connection to no outbound", {}});
  }
  auto way = home_.outbounds->way(decision.index, target);
  if (!way) return dial_failed(way.error());
  auto dialling = std::make_unique<Dialling>();
  Dialling* which = dialling.get();
  which->stack = std::move(way->stack);
  which->peer = host_text(way->plan.host) + ":" + std::to_string(way->plan.port);
  dials_.push_back(std::move(dialling));
  which->dial = std::make_unique<net::Dial>(
      home_.around.loop, std::move(way->plan),
      [this, which](Result<std::unique_ptr<net::TcpStream>> stream) { on_dialled(*which, std::move(stream)); });
}

void Bridge::on_dialled(Dialling& which, Result<std::unique_ptr<net::TcpStream>> stream) {
  const auto at = std::find_if(dials_.begin(), dials_.end(), [&](const auto& d) { return d.get() == &which; });
  done_dials_.push_back(std::move(*at));
  dials_.erase(at);
  review_soon();
  if (!stream) return dial_failed(stream.error());
  last_failure_.clear();
  const auto peer = (*stream)->peer();
  auto link = std::make_unique<BridgeLink>(*this, std::move(which.stack), peer ? peer->text() : which.peer);
  log_event(log::Level::info, "bridge", "tunnel opened", kv("tag", settings_.tag), kv("peer", link->peer()));
  links_.push_back(std::move(link));
  links_.back()->start(std::move(*stream));
}

void Bridge::dial_failed(const Error& why) {
  plan_.dial_failed(home_.around.loop.now(), home_.around.random.below(0xffffffff));
  last_failure_ = why.where.empty() ? why.what : why.where + ": " + why.what;
  // The first failure of a row is worth a look; the rest would only fill the log.
  const auto level = plan_.failures() % 64 == 1 ? log::Level::warning : log::Level::info;
  log_event(level, "bridge", "tunnel could not be opened", kv("tag", settings_.tag), kv("reason", last_failure_),
            kv("failures", plan_.failures()));
  review_soon();
}

void Bridge::link_over(BridgeLink& link, const Error& why) {
  const TimePoint now = home_.around.loop.now();
  const auto lived = now - link.since();
  const bool expected = !dialling_allowed_ || link.kicked() || link.plan().leaving() ||
                        link.plan().state() == reverse::BridgeTunnel::State::draining;
  if (const auto others = closed_[expected ? 1 : 0].say(now, Sparingly::kEach)) {
    log_event(expected ? log::Level::info : log::Level::warning, "bridge", "tunnel closed", kv("tag", settings_.tag),
              kv("peer", link.peer()), kv("reason", why),
              kv("lived_s", std::chrono::duration_cast<std::chrono::seconds>(lived).count()), kv("others", *others));
  }
  plan_.tunnel_lost(lived, link.answered(), now, home_.around.random.below(0xffffffff));
  std::erase_if(links_, [&](const auto& each) { return each.get() == &link; });
  review_soon();
}

}  // namespace ebb::bridge
