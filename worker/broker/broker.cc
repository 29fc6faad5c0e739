#include "worker/broker/broker.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/log.h"
#include "common/config/canonical.h"
#include "common/net/linger.h"
#include "common/protocol/vmess/session_state.h"
#include "ipc/state_blob.h"
#include "worker/broker/broker_main.h"
#include "worker/broker/status.h"
#include "worker/relay/socket_side.h"
#include "worker/relay/vmess_codec.h"

namespace ebb::broker {
namespace {

constexpr auto kRetry = std::chrono::milliseconds(5);  // a link without room, or a process without descriptors
constexpr auto kLagTick = std::chrono::milliseconds(500);
constexpr auto kDrainTick = std::chrono::milliseconds(50);
// A visitor or a bridge who pauses with his window shut: no less than the idle time. Dead tunnels are noticed by pings.
constexpr auto kDeadAfter = std::chrono::seconds(300);

IpAddress address_from(const std::array<std::uint8_t, 16>& mapped) { return IpAddress::from_v6(mapped); }

std::string peer_of(const ipc::OfferRecord& record) {
  return Endpoint{address_from(record.peer), record.peer_port}.text();
}

std::uint64_t key_of_visitor(const ipc::OfferRecord& record) {
  return std::hash<std::string_view>{}(as_text(record.peer));
}

std::size_t quarter_of_memory() {
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) / 4 * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

std::size_t fd_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

}  // namespace

struct Broker::Plant {
  config::Config config;
  routing::Router router;
  outbound::Outbounds outbounds;
  PortalHome portal_home;
  bridge::Home bridge_home;
  std::vector<std::unique_ptr<Portal>> portals;
  std::vector<std::unique_ptr<bridge::Bridge>> bridges;

  Plant(config::Config parsed, routing::Router compiled, outbound::Surroundings around, relay::Relays& relays)
      : config(std::move(parsed)),
        router(std::move(compiled)),
        outbounds(config, around),
        portal_home{around, config.settings, relays, {}},
        bridge_home{around, config, router, outbounds, relays, {}, {}} {
    reverse::Hello hello;  // an empty feature set: ours-to-ours is decided, nothing changes on the wire yet
    around.random.fill(hello.node_id);
    portal_home.hello = bridge_home.hello = hello;
    for (const auto& each : config.portals) portals.push_back(std::make_unique<Portal>(each, portal_home));
    bridge_home.open_in_portal = [this](std::size_t index, const Target& target) {
      return portals[index]->open(target, 0);
    };
    for (const auto& each : config.bridges) {
      bridges.push_back(std::make_unique<bridge::Bridge>(each, bridge_home));
    }
  }
};

struct Broker::Ctl final : net::Watched {
  Ctl(Broker& owner, Fd fd)
      : self(owner),
        control(std::move(fd), ipc::Role::broker, owner),
        retry([](void* ctl) { static_cast<Ctl*>(ctl)->on_events(EPOLLOUT); }, this) {
    watched = control.fd();
    self.loop_.add(watched, *this);
  }
  void on_events(std::uint32_t events) override {
    if ((events & EPOLLOUT) != 0) control.on_writable();
    control.on_readable();
    if (control.fd() < 0 && watched >= 0) watched = -1;  // closed by the channel, which took it out of the epoll set
    if (control.wants_write()) self.loop_.arm(retry, kRetry);
  }

  Broker& self;
  ipc::ChildControl control;
  int watched = -1;
  net::Timer retry;
};

struct Broker::Signals final : net::Watched {
  explicit Signals(Broker& owner) : self(owner) { self.loop_.add(self.ctl_->control.signal_fd(), *this); }
  void on_events(std::uint32_t) override { self.ctl_->control.on_signal(); }
  Broker& self;
};

struct Broker::WorkerLink final : net::Watched {
  WorkerLink(Broker& owner, Fd end, std::uint32_t worker)
      : self(owner),
        worker_id(worker),
        channel(std::move(end), ipc::Link::handoff, ipc::Role::broker, ipc::Role::worker, options(owner)),
        retry([](void* link) { static_cast<WorkerLink*>(link)->on_events(EPOLLIN | EPOLLOUT); }, this) {}
  static ipc::Channel::Options options(Broker& owner) {
    ipc::Channel::Options out;
    out.fds_to_spare = [&owner] { return owner.fds_in_use() + 448 < fd_limit(); };  // an OFFER is far from the last one
    return out;
  }
  void on_events(std::uint32_t events) override {
    if ((events & EPOLLOUT) != 0) {
      channel.on_writable();
      self.intake_->on_writable(id, self.loop_.now());
    }
    self.read_link(*this);
  }

  Broker& self;
  std::uint32_t worker_id;
  ipc::Channel channel;
  ipc::LinkId id = 0;
  net::Timer retry;
  bool over = false;
};

Broker::Broker(Fd ctl)
    : relays_(loop_),
      intake_timer_(
          [](void* self) {
            auto* broker = static_cast<Broker*>(self);
            broker->intake_->on_deadline(broker->loop_.now());
            broker->arm_intake();
          },
          this),
      lag_timer_(
          [](void* self) {
            auto* broker = static_cast<Broker*>(self);
            broker->worst_lag_ = std::max(broker->worst_lag_, Clock::now() - broker->lag_timer_.due());
            broker->loop_.arm(broker->lag_timer_, kLagTick);
          },
          this),
      drain_timer_([](void* self) { static_cast<Broker*>(self)->check_drained(); }, this),
      sweep_links_([](void* self) { static_cast<Broker*>(self)->dead_links_.clear(); }, this) {
  ctl_ = std::make_unique<Ctl>(*this, std::move(ctl));
  signals_ = std::make_unique<Signals>(*this);
  loop_.arm(lag_timer_, kLagTick);
}

Broker::~Broker() = default;

int Broker::run() {
  loop_.run();
  return exit_status_;
}

void Broker::leave(int status) {
  exit_status_ = status;
  loop_.stop();
}

// --- what the supervisor says ----------------------------------------------------------------------------------------

void Broker::on_log(ipc::LogKind which, Fd file) {
  const bool access = which == ipc::LogKind::access;
  if (log::current() != nullptr) {
    return log::current()->swap(access ? log::Stream::access : log::Stream::error, std::move(file));
  }
  (access ? access_log_ : error_log_) = std::move(file);
}

Result<> Broker::on_shm(ipc::ShmKind, Fd memfd, std::uint64_t) {
  kept_memory_.push_back(std::move(memfd));
  return {};
}

Result<> Broker::on_config(std::uint64_t, std::string_view snapshot) {
  auto config = config::parse_canonical(snapshot);
  if (!config) return std::unexpected{std::move(config.error()).in("snapshot")};
  log::Settings logs;
  logs.level = log::Level{static_cast<std::uint8_t>(config->log.level)};
  logs.format = config->log.json ? log::Format::json : log::Format::v2ray;
  logs.error = std::move(error_log_);
  logs.access = std::move(access_log_);
  log::init(std::move(logs));

  routing::Router::Handlers handlers;
  for (const auto& outbound : config->outbounds) handlers.outbounds.push_back(outbound.tag);
  for (const auto& portal : config->portals) handlers.portals.push_back(portal.tag);
  auto router = routing::Router::compile(config->rules, handlers, [](std::string_view tag) {
    log_event(log::Level::warning, "routing", "rule names no outbound, the default one is used", kv("tag", tag));
  });
  if (!router) return std::unexpected{std::move(router.error()).in("routing")};
  const auto memory = static_cast<std::size_t>(config->settings.limits.memory);
  blocks_.set_limit(memory > 0 ? memory : quarter_of_memory());
  plant_ = std::make_unique<Plant>(std::move(*config), std::move(*router),
                                   outbound::Surroundings{loop_, blocks_, random_}, relays_);
  for (std::size_t i = 0; i < plant_->portals.size(); ++i) {
    plant_->portals[i]->on_change = [this, i](Portal&) { pool_changed(i); };
  }
  ipc::OfferIntake::Options options;
  options.tunnel_wait = plant_->config.settings.timers.tunnel_wait;
  intake_ = std::make_unique<ipc::OfferIntake>(options, *this);
  ctl_->control.ready();
  return {};
}

void Broker::on_slot(const ipc::SlotGrant& grant, Fd socket) { escrow_[grant.slot] = std::move(socket); }

void Broker::on_slot_revoked(std::uint32_t slot) { escrow_.erase(slot); }

void Broker::on_link(const ipc::LinkAdd& link, Fd end) {
  if (!intake_) return on_broken(Error{Errc::protocol, "a link came before the configuration", {}});
  auto fresh = std::make_unique<WorkerLink>(*this, std::move(end), link.worker_id);
  WorkerLink& added = *fresh;
  links_.push_back(std::move(fresh));
  added.id = intake_->add_link(added.channel, static_cast<std::uint16_t>(link.worker_id), link.credits);
  loop_.add(added.channel.fd(), added);
  for (std::size_t i = 0; i < plant_->portals.size(); ++i) {
    const Portal& portal = *plant_->portals[i];
    intake_->set_tunnels(added.id, static_cast<std::uint16_t>(i), portal.live(), portal.streams(), loop_.now());
  }
  arm_intake();
}

void Broker::on_start() {
  for (auto& each : plant_->bridges) each->start();
}

void Broker::on_drain(const ipc::DrainOrder& order) {
  if (order.deadline) {
    const TimePoint until = loop_.now() + *order.deadline;
    drain_until_ = drain_until_ ? std::min(*drain_until_, until) : until;
  } else if (!drain_until_ && plant_) {
    drain_until_ = loop_.now() + plant_->config.settings.timers.hard_stop_after.value_or(std::chrono::hours(24));
  }
  if (!std::exchange(draining_, true) && plant_) {
    log_event(log::Level::info, "broker", "draining", kv("connections", relays_.size()));
    for (auto& each : plant_->bridges) each->drain();
    for (auto& each : plant_->portals) each->drain();
    intake_->go_away(ctl_->control.gen(), loop_.now());
    arm_intake();
  }
  check_drained();
}

void Broker::check_drained() {
  const bool over = drain_until_ && loop_.now() >= *drain_until_;
  if ((relays_.size() == 0 && all_delivered()) || over || !plant_) {
    const auto left = static_cast<std::uint32_t>(relays_.size());
    if (left > 0) log_event(log::Level::warning, "broker", "connections were cut", kv("connections", left));
    ctl_->control.drained(left, intake_ ? static_cast<std::uint32_t>(intake_->pending()) : 0);
    return leave(0);
  }
  loop_.arm(drain_timer_, kDrainTick);
}

/// Streams are over once their last frame is queued: what tunnels still hold, or the kernel for them, would be lost
/// with us, for a peer's next frame to a closed tunnel is answered with a reset.
bool Broker::all_delivered() const {
  const auto delivered = [](const auto& owner) {
    return std::ranges::all_of(owner->links(), [](const auto& link) { return link->undelivered() == 0; });
  };
  return std::ranges::all_of(plant_->portals, delivered) && std::ranges::all_of(plant_->bridges, delivered);
}

std::string Broker::on_query(std::string_view) {
  return plant_ ? status_json(plant_->portals, plant_->bridges, relays_.size(), loop_.now()) : "{}";
}

/// At most: both sides of a relay may be sockets. Parked offers hold theirs too.
std::size_t Broker::fds_in_use() const {
  std::size_t out = relays_.size() * 2 + loop_.lingering().size() + escrow_.size() + links_.size() + 64;
  if (intake_) out += intake_->pending();
  if (!plant_) return out;
  for (const auto& each : plant_->portals) out += each->links().size();
  for (const auto& each : plant_->bridges) out += each->links().size() + each->dialling();
  return out;
}

ipc::Vitals Broker::on_ping() {
  ipc::Vitals out;
  const auto lag = std::chrono::duration_cast<std::chrono::microseconds>(std::exchange(worst_lag_, {})).count();
  out.loop_lag_us = static_cast<std::uint32_t>(std::clamp<std::int64_t>(lag, 0, 0xffffffff));
  out.connections = static_cast<std::uint32_t>(relays_.size());
  const std::size_t used = fds_in_use();
  out.fds_free = static_cast<std::uint32_t>(fd_limit() > used ? fd_limit() - used : 0);
  return out;
}

void Broker::on_broken(const Error& why) {
  log_event(log::Level::error, "broker", "cannot go on", kv("reason", why));
  leave(1);
}

// --- what the workers say --------------------------------------------------------------------------------------------

void Broker::read_link(WorkerLink& link) {
  if (link.over) return;
  for (;;) {
    bool fault = false;
    const auto end = link.channel.on_readable([&](ipc::Message& message) {
      const auto code = intake_->on_message(link.id, message, loop_.now());
      if (code == ipc::FaultCode::none) return;
      link.channel.send_fault(code, "offer");
      fault = true;
    });
    if (fault || end == ipc::ReadEnd::fault) {
      log_event(log::Level::error, "broker", "a worker broke the handoff protocol", kv("worker", link.worker_id));
      intake_->on_link_fault(link.id);
      return drop_link(link);
    }
    if (end == ipc::ReadEnd::eof) {
      intake_->on_link_eof(link.id, loop_.now());
      return drop_link(link);
    }
    if (end == ipc::ReadEnd::busy) continue;  // bounded: a worker has at most its credits under way
    if (end == ipc::ReadEnd::starved || link.channel.wants_retry()) loop_.arm(link.retry, kRetry);
    break;
  }
  arm_intake();
}

void Broker::drop_link(WorkerLink& link) {
  link.over = true;
  link.retry.disarm();
  loop_.remove(link.channel.fd(), link);
  const auto at = std::find_if(links_.begin(), links_.end(), [&](const auto& each) { return each.get() == &link; });
  dead_links_.push_back(std::move(*at));
  links_.erase(at);
  loop_.defer(sweep_links_);
  arm_intake();
}

void Broker::arm_intake() {
  const auto due = intake_->next_deadline();
  if (!due) return intake_timer_.disarm();
  loop_.arm_at(intake_timer_, *due);
}

void Broker::pool_changed(std::size_t index) {
  Portal& portal = *plant_->portals[index];
  for (const auto& link : links_) {
    intake_->set_tunnels(link->id, static_cast<std::uint16_t>(index), portal.live(), portal.streams(), loop_.now());
  }
  if (portal.has_room()) intake_->portal_up(static_cast<ipc::PortalKey>(index), loop_.now());
  arm_intake();
}

std::optional<ipc::PortalKey> Broker::portal_of(ipc::LinkId, const ipc::OfferRecord& record) {
  if (record.portal >= plant_->portals.size() || record.inbound >= plant_->config.inbounds.size()) return std::nullopt;
  return record.portal;
}

ipc::Choice Broker::choose(ipc::PortalKey portal, const ipc::OfferRecord& record, ConstSpan blob) {
  if (record.klass != ipc::OfferClass::raw) {
    const auto decoded = ipc::decode_blob(blob);
    const auto state = decoded ? decoded->get(ipc::Tlv::vmess) : std::nullopt;
    if (!decoded || (state && !vmess::decode_state(*state))) {
      return ipc::Choice::refuse(ipc::RefuseReason::bad_state);
    }
  }
  if (record.role == ipc::OfferRole::tunnel) return ipc::Choice::take(0);
  return plant_->portals[portal]->has_room() ? ipc::Choice::take(0) : ipc::Choice::park();
}

void Broker::own(ipc::OwnedOffer offer) {
  std::unique_ptr<relay::Codec> codec;
  Bytes unread;
  std::optional<Target> target;
  if (!offer.blob.empty()) {
    const auto blob = ipc::decode_blob(offer.blob);
    if (!blob) return;  // choose() decoded it
    if (const auto state = blob->get(ipc::Tlv::vmess)) {
      const auto decoded = vmess::decode_state(*state);
      if (!decoded) return;  // never as plain bytes
      codec = relay::codec_from(*decoded, random_);
    }
    for (const auto type : {ipc::Tlv::unread_cipher, ipc::Tlv::unread_plain}) {
      if (const auto bytes = blob->get(type)) unread.insert(unread.end(), bytes->begin(), bytes->end());
    }
    if (const auto bytes = blob->get(ipc::Tlv::meta)) {
      if (const auto meta = ipc::decode_meta(*bytes)) target = meta->target;
    }
  }
  net::tune_socket(offer.fd.get(), kDeadAfter);
  auto stream = std::make_unique<net::TcpStream>(loop_, std::move(offer.fd));
  Portal& portal = *plant_->portals[offer.portal];
  if (offer.record.role == ipc::OfferRole::tunnel) {
    return portal.add_tunnel({std::move(stream), std::move(codec), std::move(unread), peer_of(offer.record),
                              offer.record.user, offer.record.inbound});
  }
  const auto& inbound = plant_->config.inbounds[offer.record.inbound];
  const auto* door = std::get_if<config::DokodemoInbound>(&inbound.protocol);
  if (!target && door != nullptr) target = Target{Network::tcp, door->address, door->port};
  if (!target) return stream->reset();
  const std::uint32_t level = door != nullptr ? door->level : 0;
  auto visitor = std::make_unique<relay::SocketSide>(loop_, blocks_, std::move(codec));
  relay::SocketSide& socket = *visitor;
  std::unique_ptr<relay::Side> side = std::move(visitor);
  if (!portal.serve(side, *target, plant_->config.level(level), key_of_visitor(offer.record))) {
    log_event(log::Level::info, "portal", "visitor was refused: no tunnel takes it", kv("tag", portal.settings().tag),
              kv("peer", peer_of(offer.record)));
    return stream->reset();
  }
  socket.attach(std::move(stream), std::move(unread));
}

int run_broker(Fd ctl) {
  Broker broker(std::move(ctl));
  return broker.run();
}

}  // namespace ebb::broker
