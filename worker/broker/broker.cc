#include "worker/broker/broker.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/log.h"
#include "common/config/canonical.h"
#include "common/config/hard_stop.h"
#include "common/net/linger.h"
#include "ipc/query.h"
#include "worker/broker/broker_main.h"
#include "worker/broker/status.h"

namespace ebb::broker {
namespace {

constexpr auto kRetry = std::chrono::milliseconds(5);  // a link without room, or a process without descriptors
constexpr auto kDrainTick = std::chrono::milliseconds(50);
constexpr auto kLeaveTick = std::chrono::milliseconds(100);  // between two looks at whether anything is left

/// Numbers of tunnels for each broker generation: several of them may live at once.
constexpr std::uint64_t kTunnelNumbers = 1'000'000;

/// UDP slots are read here, because this process outlives reloads, and flows with it; the others are in escrow only.
bool is_datagram(int fd) {
  int type = 0;
  socklen_t size = sizeof type;
  return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_DGRAM;
}

std::size_t fd_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

}  // namespace

struct Broker::Ctl final : net::Watched {
  Ctl(Broker& owner, Fd fd, Fd adoption)
      : self(owner),
        control(std::move(fd), ipc::Role::broker, owner, std::move(adoption)),
        retry([](void* ctl) { static_cast<Ctl*>(ctl)->on_events(EPOLLOUT); }, this),
        deadline(
            [](void* ctl) {
              static_cast<Ctl*>(ctl)->control.on_deadline();
              static_cast<Ctl*>(ctl)->watch();
            },
            this),
        door(*this) {
    watch();
  }
  void on_events(std::uint32_t events) override {
    if ((events & EPOLLOUT) != 0) control.on_writable();
    control.on_readable();
    watch();
  }
  /// After every call of `control`: the supervisor's link may have ended, or be another one.
  void watch() {
    follow(watched, control.fd(), *this);
    follow(door.watched, control.adoption_fd(), door);
    if (control.wants_write()) self.loop_.arm(retry, kRetry);
    if (const auto due = control.next_deadline()) {
      self.loop_.arm_at(deadline, *due);
    } else {
      deadline.disarm();
    }
  }
  void follow(int& from, int to, net::Watched& who) {
    if (from == to) return;
    if (from >= 0) self.loop_.remove(from, who);
    if (to >= 0) self.loop_.add(to, who);  // told at once of what waits there already
    from = to;
  }

  struct Door final : net::Watched {  // the adoption socket, while a supervisor is wanted
    explicit Door(Ctl& owner) : ctl(owner) {}
    void on_events(std::uint32_t) override {
      ctl.control.on_adoption_readable();
      ctl.watch();
    }
    Ctl& ctl;
    int watched = -1;
  };

  Broker& self;
  ipc::ChildControl control;
  int watched = -1;
  net::Timer retry;
  net::Timer deadline;
  Door door;
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
    out.fds_to_spare = [&owner] { return owner.fds_to_spare(); };
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
  GenerationTables::Gen gen = 0;  // of the worker's configuration: whose numbers it uses
  bool gen_known = false;         // an offer said so
  net::Timer retry;
  bool over = false;
};

Broker::Broker(Fd ctl, Fd adoption)
    : relays_(loop_),
      intake_timer_(
          [](void* self) {
            auto* broker = static_cast<Broker*>(self);
            broker->intake_->on_deadline(broker->loop_.now());
            broker->arm_intake();
          },
          this),
      lag_(loop_),
      drain_timer_([](void* self) { static_cast<Broker*>(self)->check_drained(); }, this),
      leave_timer_([](void* self) { static_cast<Broker*>(self)->check_empty(); }, this),
      retire_timer_([](void* self) { static_cast<Broker*>(self)->retire_tables(); }, this),
      sweep_links_([](void* self) { static_cast<Broker*>(self)->dead_links_.clear(); }, this) {
  relays_.set_half_closed_bound(fd_limit() / 2);
  ctl_ = std::make_unique<Ctl>(*this, std::move(ctl), std::move(adoption));
  signals_ = std::make_unique<Signals>(*this);
}

Broker::~Broker() = default;

int Broker::run() {
  loop_.run();
  return exit_status_;
}

/// The loop ends with this turn, and links may still be read in it: no more TAKE from here on.
void Broker::leave(int status) {
  over_ = true;
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

/// Tables of the workers, in escrow only: ChildControl keeps them for who adopts us.
Result<> Broker::on_shm(ipc::ShmKind, Fd, std::uint64_t) { return {}; }

Result<> Broker::on_config(std::uint64_t gen, std::string_view snapshot) {
  auto config = config::parse_canonical(snapshot);
  if (!config) return std::unexpected{std::move(config.error()).in("snapshot")};
  log::Settings logs;
  logs.level = log::Level{static_cast<std::uint8_t>(config->log.level)};
  logs.format = config->log.json ? log::Format::json : log::Format::v2ray;
  logs.error = std::move(error_log_);
  logs.access = std::move(access_log_);
  log::init(std::move(logs));

  auto tables = GenerationTables::make(gen, std::move(*config));
  if (!tables) return std::unexpected{std::move(tables.error())};
  tunnel::last_tunnel_number() = ctl_->control.gen() * kTunnelNumbers;
  intake_ = std::make_unique<ipc::OfferIntake>(ipc::OfferIntake::Options{}, *this);
  plant_ = std::make_unique<Plant>(std::move(*tables), outbound::Surroundings{loop_, blocks_, random_}, relays_,
                                   visitors_, [this](PortalKey key, Portal& portal) { pool_changed(key, portal); });
  plant_->set_room([this] {
    const auto most = config::most_connections(plant_->config().settings.limits.max_connections, fd_limit());
    return relays_.size() < most && fds_to_spare();
  });
  use_limits();
  ctl_->control.ready();
  return {};
}

void Broker::use_limits() {
  const auto& settings = plant_->config().settings;
  blocks_.set_limit(config::most_memory(settings.limits.memory));
  shortage_.set_limits({settings.limits.min_drain, settings.timers.stall});
  intake_->set_tunnel_wait(settings.timers.tunnel_wait);
  // A flow may be sockets of its own: half of the descriptors are for connections.
  plant_->flows().set_most(std::min(flow::Flows::kMost, fd_limit() / 2));
}

// --- a reload: CONFIG_UPDATE (ipc/PROTOCOL.md) -----------------------------------------------------------------------

Result<ipc::UpdateVerdict> Broker::on_update_prepare(std::uint64_t gen, std::string_view snapshot) {
  if (!plant_) return std::unexpected{Error{Errc::protocol, "an update came before the configuration", {}}};
  auto config = config::parse_canonical(snapshot);
  if (!config) return std::unexpected{std::move(config.error()).in("snapshot")};
  ipc::UpdateVerdict verdict{plant_->needs_restart(*config)};
  auto prepared = plant_->prepare(gen, std::move(*config));
  if (!prepared) return std::unexpected(std::move(prepared.error()));
  return verdict;
}

void Broker::on_update_commit(std::uint64_t gen) {
  if (!plant_) return;
  const auto removed = plant_->commit(gen);
  if (!removed) return log_event(log::Level::error, "broker", "commit of what was not prepared", kv("generation", gen));
  const auto& log = plant_->config().log;
  log::current()->set_level(log::Level{static_cast<std::uint8_t>(log.level)});
  log::current()->set_format(log.json ? log::Format::json : log::Format::v2ray);
  use_limits();
  portals_removed(*removed);
  log_event(log::Level::info, "broker", "configuration was changed", kv("generation", gen));
}

void Broker::on_update_abort(std::uint64_t gen) {
  if (!plant_) return;
  if (const auto removed = plant_->abort(gen)) portals_removed(*removed);
}

void Broker::portals_removed(const Plant::Removed& removed) {
  for (const auto& link : links_) announce(*link);
  for (const PortalKey key : removed) intake_->portal_up(key, loop_.now());  // who waits is refused by choose()
  retire_tables();
  arm_intake();
}

/// Tables that no link uses any more go when the last offer of a dead worker has been answered.
void Broker::retire_tables() {
  const Duration wait = plant_->config().settings.timers.tunnel_wait + std::chrono::seconds(1);
  plant_->tables().retire(wait, loop_.now());
  if (const auto due = plant_->tables().next_retirement(wait)) loop_.arm_at(retire_timer_, *due);
}

void Broker::on_slot(const ipc::SlotGrant& grant, Fd socket) {
  if (plant_ && is_datagram(socket.get())) plant_->doors().add(grant.slot, socket.get());
  escrow_[grant.slot] = {std::move(socket), {grant.cookie, grant.slot, grant.listener}};
}

void Broker::on_slot_revoked(std::uint32_t slot) {
  escrow_.erase(slot);
  if (plant_) plant_->doors().remove(slot);
}

void Broker::on_link(const ipc::LinkAdd& link, Fd end) {
  if (!intake_) return on_broken(Error{Errc::protocol, "a link came before the configuration", {}});
  auto fresh = std::make_unique<WorkerLink>(*this, std::move(end), link.worker_id);
  WorkerLink& added = *fresh;
  links_.push_back(std::move(fresh));
  added.id = intake_->add_link(added.channel, static_cast<std::uint16_t>(link.worker_id), link.credits);
  loop_.add(added.channel.fd(), added);
  // Nobody says of which generation the worker is; its first offer will. Until then it is a new one.
  added.gen = plant_->tables().newest();
  plant_->tables().link_added(added.gen);
  announce(added);
  arm_intake();
}

/// Ours: a successor is there, or is gone again. Unlike DRAIN this may be taken back.
void Broker::on_broker_state(const ipc::BrokerState& state) {
  if (!plant_ || draining_ || over_ || state.broker_gen != ctl_->control.gen()) return;
  if (state.state == ipc::BrokerPhase::draining) begin_leaving();
  if (state.state == ipc::BrokerPhase::active) stay();
}

void Broker::begin_leaving() {
  if (leaving_since_) return;
  // Many bridges would dial the successor in the same moment; few need not wait for one another.
  constexpr auto kApart = std::chrono::milliseconds(2);
  constexpr auto kSpread = std::chrono::milliseconds(1000);
  std::size_t tunnels = 0;
  for (const auto* each : plant_->portals()) tunnels += each->links().size();
  const auto spread = tunnels > 500 ? kSpread : kApart * static_cast<int>(tunnels);
  log_event(log::Level::info, "broker", "tunnels are drained for a successor", kv("connections", relays_.size()));
  leaving_since_ = loop_.now();
  plant_->drain(spread);
  loop_.arm(leave_timer_, kLeaveTick);
}

void Broker::stay() {
  if (!leaving_since_) return;
  log_event(log::Level::info, "broker", "the successor is gone: back to service", kv("connections", relays_.size()));
  leaving_since_.reset();
  warned_of_.clear();
  leave_timer_.disarm();
  plant_->resume();
}

/// Leaves by itself once nothing is left, however long that takes. Offers still under way come back to their workers
/// with the end of our links, unread.
void Broker::check_empty() {
  if (!leaving_since_ || draining_) return;
  if (!carries_nothing()) {
    warn_of_unmoved();
    return loop_.arm(leave_timer_, kLeaveTick);
  }
  log_event(log::Level::info, "broker", "nothing is left: leaving to the successor");
  intake_->go_away(ctl_->control.gen(), loop_.now());
  ctl_->control.drained(0, 0);
  leave(0);
}

/// Tunnels that close stay in their lists until the kernel has their last bytes; then they linger.
bool Broker::carries_nothing() const {
  return relays_.size() == 0 && plant_->flows().size() == 0 && intake_->pending() == 0 && plant_->without_tunnels() &&
         loop_.lingering().size() == 0;
}

void Broker::warn_of_unmoved() {
  const Duration limit = plant_->config().settings.timers.broker_move;
  if (loop_.now() - *leaving_since_ < limit) return;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit).count();
  for (const Portal* portal : plant_->unmoved()) {
    const auto& settings = portal->settings();
    if (!warned_of_.insert(portal->name()).second) continue;
    log_event(log::Level::warning, "portal", "no bridge has dialled the successor: its tunnels stay here",
              kv("tag", settings.tag), kv("domain", settings.domain), kv("tunnels", portal->links().size()),
              kv("after_s", seconds));
  }
}

void Broker::on_start() {
  if (plant_) plant_->start(ctl_->control.gen() > 1);
}

void Broker::on_drain(const ipc::DrainOrder& order) {
  if (order.deadline) {
    const TimePoint until = loop_.now() + *order.deadline;
    drain_until_ = drain_until_ ? std::min(*drain_until_, until) : until;
  } else if (!drain_until_ && plant_) {
    drain_until_ = loop_.now() + plant_->config().settings.timers.hard_stop_after.value_or(config::kHardStopBrokers);
  }
  if (!std::exchange(draining_, true) && plant_) {
    log_event(log::Level::info, "broker", "draining", kv("connections", relays_.size()));
    plant_->drain();
    intake_->go_away(ctl_->control.gen(), loop_.now());
    arm_intake();
  }
  check_drained();
}

void Broker::check_drained() {
  if (over_) return;
  const bool over = drain_until_ && loop_.now() >= *drain_until_;
  if (!plant_ || (relays_.size() == 0 && all_delivered()) || over) {
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
    return std::ranges::all_of(owner->links(), [](const auto& link) { return link->tunnel().undelivered() == 0; });
  };
  return std::ranges::all_of(plant_->portals(), delivered) && std::ranges::all_of(plant_->bridges(), delivered);
}

std::string Broker::on_query(std::string_view request) {
  if (!plant_) return "{}";
  auto query = ipc::parse_query(request);
  if (!query) return ipc::query_error(query.error().what);
  switch (query->kind) {
    case ipc::Query::Kind::live: return live_json(plant_->live());
    case ipc::Query::Kind::moved: plant_->set_moved(std::move(query->portals)); return "{}";
    case ipc::Query::Kind::kick: {
      const auto kicked = query->tunnel ? plant_->kick(TunnelId{*query->tunnel}) : plant_->kick(query->user);
      return ipc::query_counts(kicked.tunnels, kicked.visitors);
    }
    case ipc::Query::Kind::drain:
      return ipc::query_counts(query->tunnel ? plant_->drain(TunnelId{*query->tunnel}) : plant_->drain(query->user), 0);
    case ipc::Query::Kind::status: break;
  }
  return status_json(*plant_, relays_.size(), intake_->counts(), loop_.now());
}

/// At most: both sides of a relay may be sockets. Parked offers hold theirs too.
std::size_t Broker::fds_in_use() const {
  std::size_t out = relays_.size() * 2 + (plant_ ? plant_->flows().descriptors() + plant_->doors().size() : 0) +
                    loop_.lingering().size() + escrow_.size() + links_.size() + 64;
  if (intake_) out += intake_->pending();
  if (!plant_) return out;
  for (const auto* each : plant_->portals()) out += each->links().size();
  for (const auto* each : plant_->bridges()) out += each->links().size() + each->dialling();
  return out;
}

/// What is kept back for tunnels and control; an OFFER, or a stream of a portal, is far from the last descriptor.
bool Broker::fds_to_spare() const {
  constexpr std::size_t kKeptBack = 448;
  const std::size_t limit = fd_limit();
  return fds_in_use() + std::min(kKeptBack, limit / 4) < limit;
}

ipc::Vitals Broker::on_ping() {
  ipc::Vitals out;
  out.loop_lag = lag_.take();
  out.connections = static_cast<std::uint32_t>(relays_.size());
  const std::size_t used = fds_in_use();
  out.fds_free = static_cast<std::uint32_t>(fd_limit() > used ? fd_limit() - used : 0);
  return out;
}

void Broker::on_orphaned(Duration since) {
  log_event(log::Level::warning, "broker", "the supervisor is gone, the broker goes on without it",
            kv("seconds", std::chrono::duration_cast<std::chrono::seconds>(since).count()));
}

void Broker::on_adopter_refused(const Error& why) {
  log_event(log::Level::warning, "broker", "a connection to the adoption socket was closed", kv("reason", why.what));
}

ipc::Adoptable Broker::adoptable() {
  ipc::Adoptable out;
  out.connections = static_cast<std::uint32_t>(relays_.size());
  out.slots.reserve(escrow_.size());
  for (const auto& [number, held] : escrow_) out.slots.push_back({held.slot, held.socket.get()});
  return out;
}

void Broker::on_adopted() { log_event(log::Level::info, "broker", "adopted by a new supervisor"); }

void Broker::on_broken(const Error& why) {
  if (log::current() == nullptr) {  // before the configuration said how to write
    log::Settings logs;
    logs.error = std::move(error_log_);
    log::init(std::move(logs));
  }
  log_event(log::Level::error, "broker", "cannot go on", kv("reason", why));
  leave(1);
}

// --- what the workers say --------------------------------------------------------------------------------------------

void Broker::read_link(WorkerLink& link) {
  if (link.over || over_) return;
  for (;;) {
    bool fault = false;
    const auto end = link.channel.on_readable([&](ipc::Message& message) {
      if (message.type() == ipc::Type::offer && !link.gen_known) learn_generation(link, message);
      const auto code = intake_->on_message(link.id, message, loop_.now());
      if (code == ipc::FaultCode::none) return;
      link.channel.send_fault(code, "offer");
      fault = true;
    });
    if (fault || end == ipc::ReadEnd::fault) {
      log_event(log::Level::error, "broker", "a worker broke the handoff protocol", kv("worker", link.worker_id),
                kv("fault", ipc::name_of(link.channel.fault())));
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
  plant_->tables().link_gone(link.gen, loop_.now());
  retire_tables();
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

void Broker::learn_generation(WorkerLink& link, const ipc::Message& message) {
  const auto records = message.records<ipc::OfferRecord>();
  const auto* table = records.empty() ? nullptr : plant_->tables().find(records[0].hid);
  if (table == nullptr) return;
  link.gen_known = true;
  if (table->gen == link.gen) return;
  plant_->tables().link_added(table->gen);
  plant_->tables().link_gone(link.gen, loop_.now());
  link.gen = table->gen;
  announce(link);
}

/// TUNNELS for every portal, as the worker numbers them.
void Broker::announce(WorkerLink& link) {
  const auto* table = plant_->tables().at(link.gen);
  if (table == nullptr) return;
  for (std::size_t i = 0; i < table->portals.size(); ++i) {
    const Portal* portal = plant_->portal(table->portals[i]);
    intake_->set_tunnels(link.id, static_cast<std::uint16_t>(i), portal != nullptr ? portal->live() : std::uint16_t{0},
                         portal != nullptr ? portal->streams() : 0, loop_.now());
  }
}

void Broker::pool_changed(PortalKey key, Portal& portal) {
  for (const auto& link : links_) {
    const auto* table = plant_->tables().at(link->gen);
    if (table == nullptr) continue;
    for (std::size_t i = 0; i < table->portals.size(); ++i) {
      if (table->portals[i] != key) continue;
      intake_->set_tunnels(link->id, static_cast<std::uint16_t>(i), portal.live(), portal.streams(), loop_.now());
    }
  }
  if (portal.has_room()) intake_->portal_up(key, loop_.now());
  if (plant_) plant_->review_doors();
  arm_intake();
}

int run_broker(Fd ctl, Fd adoption) {
  Broker broker(std::move(ctl), std::move(adoption));
  return broker.run();
}

}  // namespace ebb::broker
