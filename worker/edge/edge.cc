#include "worker/edge/edge.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "common/config/text.h"
#include "common/crypto/uuid.h"
#include "common/net/linger.h"
#include "worker/edge/mux_server.h"
#include "worker/edge/session.h"
#include "worker/protocols/table.h"

namespace ebb::edge {
namespace {

constexpr Duration kTick = std::chrono::seconds(1);
constexpr Duration kLookAgain = std::chrono::milliseconds(50);
/// With all handshake places taken, one that has said nothing for so long makes room: strangers cannot shut the door.
constexpr Duration kPatience = std::chrono::seconds(4);
constexpr std::size_t kReserve = 64;    // spare descriptors below which slots are not polled; twice that to go on
constexpr std::size_t kKeptBack = 448;  // at most, of streams: for those who come by a connection of their own
constexpr std::size_t kFixedFds = 32;

UnixSeconds unix_now() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::size_t fd_limit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<std::size_t>(std::min<rlim_t>(limit.rlim_cur, 1u << 20));
}

routing::Router::Handlers handlers_of(const config::Config& config) {
  routing::Router::Handlers out;
  for (const auto& outbound : config.outbounds) out.outbounds.push_back(outbound.tag);
  for (const auto& portal : config.portals) out.portals.push_back(portal.tag);
  return out;
}

}  // namespace

const config::User* Inbound::user(std::optional<std::size_t> index_of_user) const {
  const auto users = config::users_of(*settings);
  return index_of_user && *index_of_user < users.size() ? &users[*index_of_user] : nullptr;
}

std::uint32_t Inbound::level(std::optional<std::size_t> index_of_user) const {
  if (const auto* dokodemo = std::get_if<config::DokodemoInbound>(&settings->protocol)) return dokodemo->level;
  const auto* who = user(index_of_user);
  return who != nullptr ? who->level : 0;
}

Result<std::unique_ptr<Edge>> Edge::make(net::UvLoop& loop, config::Config config,
                                         std::optional<ipc::ReplayTable> replays) {
  auto router = routing::Router::compile(config.rules, handlers_of(config), [](std::string_view tag) {
    log_event(log::Level::warning, "routing", "rule names an outbound that does not exist, the default is used",
              kv("tag", tag));
  });
  if (!router) return std::unexpected(std::move(router.error()));
  std::unique_ptr<Edge> edge(new Edge(loop, std::move(config), std::move(*router), std::move(replays)));
  auto opened = edge->open_inbounds();
  if (!opened) return std::unexpected(std::move(opened.error()));
  return edge;
}

Edge::Edge(net::UvLoop& loop, config::Config config, routing::Router router, std::optional<ipc::ReplayTable> replays)
    : loop_(loop),
      config_(std::move(config)),
      router_(std::move(router)),
      replays_(std::move(replays)),
      relays_(loop),
      flows_(loop),
      outbounds_(config_, {loop, blocks_, random_}, protocols::find_way),
      handoff_(loop, {[this](const ipc::OfferRecord& record, ipc::OfferOutcome outcome, Fd fd) {
                        on_offer_ended(record, outcome, std::move(fd));
                      },
                      [this] { listeners_.review(); }}),
      listeners_(loop, {[this](Accepted accepted) { on_accepted(std::move(accepted)); },
                        [this](std::size_t inbound) { return wanted(inbound); }}),
      max_fds_(fd_limit()),
      tick_([](void* self) { static_cast<Edge*>(self)->tick(); }, this),
      look_again_([](void* self) { static_cast<Edge*>(self)->listeners_.review(); }, this),
      sweep_([](void* self) { static_cast<Edge*>(self)->sweep(); }, this) {
  max_connections_ = config::most_connections(config_.settings.limits.max_connections, max_fds_);
  blocks_.set_limit(config::most_memory(config_.settings.limits.memory));
  shortage_.set_limits({config_.settings.limits.min_drain, config_.settings.timers.stall});
  flows_.set_idle(config_.settings.timers.udp_idle);
  flows_.set_most(std::min(flow::Flows::kMost, max_fds_ / 4));  // and its client's connection
}

Edge::~Edge() = default;

Result<> Edge::open_inbounds() {
  const bool source_matters = std::ranges::any_of(
      config_.rules, [](const auto& rule) { return rule.sources.has_value() || rule.source_ports.has_value(); });
  const auto& policy = config_.level(0);
  const Duration limit = handshake_limit_ =
      std::min<Duration>(policy.handshake, config_.settings.timers.handshake.value_or(policy.handshake));
  auto proxies = routing::IpMatcher::compile(config_.settings.trusted_proxies);
  if (!proxies) return std::unexpected(std::move(proxies.error()).in("ebbgate > trustedProxies"));
  trusted_proxies_ = std::move(*proxies);
  const inbound::DoorKit kit{replays_ ? &*replays_ : nullptr, random_, limit, unix_now};
  inbounds_.reserve(config_.inbounds.size());
  for (const auto& settings : config_.inbounds) {
    Inbound& inbound = inbounds_.emplace_back();
    inbound.settings = &settings;
    inbound.index = inbounds_.size() - 1;
    auto entrance = protocols::enter(settings, kit);
    if (!entrance) {
      return std::unexpected(std::move(entrance.error()).in("inbounds[" + std::to_string(inbound.index) + "]"));
    }
    inbound.fixed = std::move(entrance->fixed);
    inbound.door = std::move(entrance->door);
    inbound.may_lead_to_portal = !config_.portals.empty();
    if (!inbound.fixed) continue;
    const routing::Subject subject{settings.tag, &*inbound.fixed, nullptr, {}};
    const auto decision = router_.decide(subject);
    if (!source_matters) inbound.way = decision;
    inbound.may_lead_to_portal =
        inbound.may_lead_to_portal && (source_matters || decision.kind == routing::Decision::Kind::portal);
  }
  loop_.arm(tick_, kTick);
  return {};
}

void Edge::tick() {
  for (auto& inbound : inbounds_) {
    if (inbound.door) inbound.door->tick();
  }
  loop_.arm(tick_, kTick);
}

void Edge::start() {
  started_ = true;
  listeners_.review();
}

void Edge::pause() {
  started_ = false;
  listeners_.review();
}

void Edge::drain(Duration spread) {
  if (drain_spread_end_) return;
  drain_spread_end_ = loop_.now() + spread;
  pause();
  listeners_.clear();
  handoff_.send_goaway();
  for (auto& mux : muxes_) mux->drain(leaving_time());
}

/// Some point of what is left of the spread: clients shall not come back all at once.
TimePoint Edge::leaving_time() {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(*drain_spread_end_ - loop_.now()).count();
  const auto bound = static_cast<std::uint32_t>(std::clamp<std::int64_t>(left, 0, 0x7fffffff));
  return loop_.now() + std::chrono::milliseconds(random_.below(bound + 1));
}

std::size_t Edge::connections() const {
  return sessions_.size() + relays_.size() + flows_.size() + muxes_.size() + handoff_.pending();
}

bool Edge::idle() const { return connections() == 0 && loop_.lingering().size() == 0; }

std::uint32_t Edge::spare_fds() const {
  // Counted by what we hold, generously: /proc/self/fd would cost milliseconds.
  const std::size_t used = kFixedFds + listeners_.size() + handoff_.links() + sessions_.size() + 2 * relays_.size() +
                           flows_.size() + flows_.descriptors() + muxes_.size() + handoff_.pending() +
                           loop_.lingering().size();
  return static_cast<std::uint32_t>(max_fds_ - std::min(max_fds_, used));
}

void Edge::look_again_soon() {
  if (!look_again_.armed()) loop_.arm(look_again_, kLookAgain);
}

bool Edge::room_for_handshake() {
  if (sessions_.size() < config_.settings.limits.max_handshakes) return true;
  return loop_.now() - sessions_.front()->accepted() >= kPatience;
}

/// For one more stream of a mux connection that has so many. A client pays for a stream with eight bytes, so they get
/// no further than to where visitors are still accepted, and from the half on nobody gets more than his share.
bool Edge::room_for_stream(std::size_t of_this_mux) const {
  const std::size_t kept_back = std::max<std::size_t>(2 * kReserve, std::min(kKeptBack, max_fds_ / 4));
  const std::size_t all = std::min(max_connections_, (max_fds_ - std::min(max_fds_, kept_back)) / 2);
  const std::size_t used = connections();
  if (used >= all - all / 4 || spare_fds() <= kept_back) return false;
  return used < all / 2 || of_this_mux * (muxes_.size() + 1) <= all / 4;
}

bool Edge::wanted(std::size_t inbound) {
  if (!started_ || inbound >= inbounds_.size()) return false;
  if (inbounds_[inbound].may_lead_to_portal && !handoff_.accepting()) return false;  // its credit calls review()
  const std::uint32_t spare = spare_fds();
  short_of_fds_ = spare < (short_of_fds_ ? 2 * kReserve : kReserve);
  const bool room =
      connections() < max_connections_ && !short_of_fds_ && (!inbounds_[inbound].converses() || room_for_handshake());
  if (!room) look_again_soon();
  return room;
}

std::size_t Edge::kick(std::string_view user) {
  std::optional<UserId> id;
  if (!crypto::is_mapped_user_id(user)) {
    if (const auto parsed = crypto::parse_user_id(user)) id = *parsed;
  }
  std::set<Member> who;
  std::string email;
  for (const Inbound& inbound : inbounds_) {
    const auto users = config::users_of(*inbound.settings);
    for (std::size_t i = 0; i < users.size(); ++i) {
      const auto& each = users[i];
      if (each.id != id && (each.email.empty() || !config::same_word(each.email, user))) continue;
      who.insert({inbound.index, i});
      email = each.email;
    }
  }
  if (email.empty()) email = "one without an e-mail";
  const Error why{Errc::closed, "the user was kicked: " + email, {}};
  const auto others = [&](const Member& member) { return !who.contains(member); };
  std::size_t out = roster_.end_unless(others, why) + flow_roster_.end_unless(others);
  for (auto& mux : muxes_) {
    const Request& request = mux->request();
    if (mux->ended() || !request.user || !who.contains({request.inbound->index, *request.user})) continue;
    mux->abort(why);
    ++out;
  }
  if (out > 0) log_event(log::Level::info, "edge", "user was kicked", kv("user", email), kv("visitors", out));
  return out;
}

void Edge::abort_all(const Error& why) {
  std::vector<Session*> sessions;  // each leaves the list when it is aborted
  sessions.reserve(sessions_.size());
  for (auto& session : sessions_) sessions.push_back(session.get());
  for (Session* session : sessions) session->abort(why);
  for (auto& mux : muxes_) mux->abort(why);
  relays_.abort_all(why);
  flows_.end_all();
}

void Edge::sweep() {
  ended_sessions_.clear();
  ended_muxes_.clear();
}

}  // namespace ebb::edge
