#include "worker/edge/worker.h"

#include <utility>

#include "common/base/json_writer.h"
#include "common/base/log.h"
#include "common/config/canonical.h"
#include "common/config/hard_stop.h"
#include "ipc/query.h"
#include "worker/edge/worker_main.h"

namespace ebb::edge {
namespace {

constexpr Duration kDrainCheck = std::chrono::milliseconds(50);

std::string text_of(const Error& why) { return why.where.empty() ? why.what : why.where + ": " + why.what; }

}  // namespace

int run_worker(Fd ctl, Fd adoption) { return Worker(std::move(ctl), std::move(adoption)).run(); }

Worker::Worker(Fd ctl, Fd adoption)
    : control_(std::move(ctl), ipc::Role::worker, *this, std::move(adoption)),
      ctl_deadline_(
          [](void* self) {
            static_cast<Worker*>(self)->control_.on_deadline();
            static_cast<Worker*>(self)->watch_ctl();
          },
          this),
      lag_(loop_),
      drain_check_([](void* self) { static_cast<Worker*>(self)->check_drained(); }, this) {
  signal_poll_ = net::Poll::make(loop_, control_.signal_fd(), [this](bool, bool) { control_.on_signal(); });
  if (signal_poll_) signal_poll_->watch(true, false);
  watch_ctl();
}

Worker::~Worker() = default;

int Worker::run() {
  if (!ctl_poll_) return 1;
  loop_.run();
  return exit_status_;
}

/// After every call of control_: the supervisor's link may have ended, or be another one.
void Worker::watch_ctl() {
  if (control_.fd() != ctl_polled_) {
    ctl_poll_.reset();
    ctl_polled_ = control_.fd();
    if (ctl_polled_ >= 0) {
      ctl_poll_ = net::Poll::make(loop_, ctl_polled_, [this](bool readable, bool writable) {
        if (writable) control_.on_writable();
        if (readable) control_.on_readable();
        watch_ctl();
      });
    }
  }
  if (ctl_poll_) ctl_poll_->watch(true, control_.wants_write());
  if (control_.adoption_fd() < 0) {
    adoption_poll_.reset();
  } else if (!adoption_poll_) {
    adoption_poll_ = net::Poll::make(loop_, control_.adoption_fd(), [this](bool, bool) {
      control_.on_adoption_readable();
      watch_ctl();
    });
    if (adoption_poll_) adoption_poll_->watch(true, false);
  }
  if (const auto due = control_.next_deadline()) {
    loop_.arm_at(ctl_deadline_, *due);
  } else {
    ctl_deadline_.disarm();
  }
}

void Worker::on_log(ipc::LogKind which, Fd file) {
  const bool access = which == ipc::LogKind::access;
  if (log::Logger* logger = log::current()) {
    logger->swap(access ? log::Stream::access : log::Stream::error, std::move(file));
  } else {
    (access ? access_log_ : error_log_) = std::move(file);
  }
}

Result<> Worker::on_shm(ipc::ShmKind kind, Fd memfd, std::uint64_t) {
  if (kind != ipc::ShmKind::replay) return {};
  auto table = ipc::ReplayTable::attach(std::move(memfd));
  if (!table) return std::unexpected(std::move(table.error()).in("replay table"));
  replays_ = std::move(*table);
  return {};
}

Result<> Worker::on_config(std::uint64_t, std::string_view snapshot) {
  auto config = config::parse_canonical(snapshot);
  if (!config) return std::unexpected(std::move(config.error()).in("configuration"));
  log::Settings logs;
  logs.level = static_cast<log::Level>(config->log.level);
  logs.format = config->log.json ? log::Format::json : log::Format::v2ray;
  logs.error = std::move(error_log_);
  logs.access = std::move(access_log_);
  log::init(std::move(logs));
  auto edge = Edge::make(loop_, std::move(*config), std::exchange(replays_, std::nullopt));
  if (!edge) return std::unexpected(std::move(edge.error()));
  edge_ = std::move(*edge);
  edge_->handoff().on_fault([this](std::uint64_t broker_gen) { report_fault(broker_gen); });
  control_.ready();
  return {};
}

void Worker::on_slot(const ipc::SlotGrant& grant, Fd socket) {
  if (!edge_ || cut_at_) return;
  if (!edge_->listeners().add(grant, std::move(socket))) {
    log_event(log::Level::error, "edge", "slot cannot be polled", kv("slot", grant.slot));
  }
}

void Worker::on_slot_revoked(std::uint32_t slot) {
  if (edge_) edge_->listeners().remove(slot);
}

void Worker::on_link(const ipc::LinkAdd& link, Fd end) {
  if (edge_) edge_->handoff().add_link(link, std::move(end), control_.gen());
}

void Worker::on_broker_state(const ipc::BrokerState& state) {
  if (edge_) edge_->handoff().on_broker_state(state);
}

void Worker::on_start() {
  if (edge_ && !cut_at_) edge_->start();
}

void Worker::on_pause() {
  if (edge_) edge_->pause();
}

void Worker::on_drain(const ipc::DrainOrder& order) {
  if (!edge_) return leave(0);
  const Duration limit =
      order.deadline.value_or(edge_->config().settings.timers.hard_stop_after.value_or(config::kHardStopWorkers));
  const TimePoint cut_at = loop_.now() + limit;
  if (!cut_at_) {
    log_event(log::Level::info, "edge", "draining", kv("connections", edge_->connections()));
    // Only an order says over how long; whoever is cut later than that would be cut by the deadline anyway.
    const Duration spread = order.why == ipc::DrainOrder::Why::ordered
                                ? Duration(order.jitter)
                                : Duration(edge_->config().settings.timers.drain_spread);
    edge_->drain(std::min(spread, limit));
  }
  cut_at_ = std::min(cut_at, cut_at_.value_or(TimePoint::max()));
  loop_.arm(drain_check_, Duration(0));
}

void Worker::check_drained() {
  if (!edge_ || !cut_at_) return;
  const bool late = loop_.now() >= *cut_at_;
  if (!edge_->idle() && !late) {
    loop_.arm(drain_check_, kDrainCheck);
    return;
  }
  const auto left = static_cast<std::uint32_t>(edge_->connections());
  if (left > 0) log_event(log::Level::warning, "edge", "connections were cut", kv("connections", left));
  control_.drained(left, static_cast<std::uint32_t>(edge_->handoff().unacked()));
  leave(0);
}

/// The supervisor makes another link: without one this worker would keep its clients waiting for ever.
void Worker::report_fault(std::uint64_t broker_gen) {
  control_.report({ipc::kLinkFaults, static_cast<std::uint32_t>(broker_gen), 1});
  watch_ctl();
}

std::string Worker::on_query(std::string_view request) {
  if (!edge_) return R"({"connections":0})";
  const auto query = ipc::parse_query(request);
  if (!query) return ipc::query_error(query.error().what);
  // No tunnel ends here, so nothing can be drained.
  if (query->kind == ipc::Query::Kind::drain) return ipc::query_counts(0, 0);
  if (query->kind == ipc::Query::Kind::kick) return ipc::query_counts(0, query->tunnel ? 0 : edge_->kick(query->user));
  const auto& counts = edge_->counts();
  JsonWriter out;
  const auto number = [&out](std::string_view name, std::uint64_t value) {
    out.key(name).number(static_cast<std::int64_t>(value));
  };
  out.object();
  number("connections", edge_->connections());
  out.key("counts").object();
  number("accepted", counts.accepted);
  number("handshakes_failed", counts.handshakes_failed);
  number("proxy_headers_refused", counts.proxy_headers_refused);
  number("offered", counts.offered);
  number("taken", counts.taken);
  number("offers_failed", counts.offers_failed);
  number("mux_streams_refused", counts.mux_streams_refused);
  for (std::size_t i = 0; i < counts.mux_faults.size(); ++i) {
    number("mux_" + std::string(name_of(static_cast<MuxFault>(i))), counts.mux_faults[i]);
  }
  number("unacked", edge_->handoff().unacked());
  out.end();
  edge_->flows().describe(out.key("flows"));
  return out.end().str();
}

ipc::Vitals Worker::on_ping() {
  ipc::Vitals out;
  out.loop_lag = lag_.take();
  if (edge_) {
    out.connections = static_cast<std::uint32_t>(edge_->connections());
    out.fds_free = edge_->spare_fds();
  }
  return out;
}

void Worker::on_orphaned(Duration since) {
  log_event(log::Level::warning, "edge", "the supervisor is gone, the worker goes on without it",
            kv("seconds", std::chrono::duration_cast<std::chrono::seconds>(since).count()));
}

void Worker::on_adopter_refused(const Error& why) {
  log_event(log::Level::warning, "edge", "a connection to the adoption socket was closed", kv("reason", why.what));
}

ipc::Adoptable Worker::adoptable() {
  if (!edge_) return {};
  return {static_cast<std::uint32_t>(edge_->connections()), edge_->listeners().held()};
}

void Worker::on_adopted() { log_event(log::Level::info, "edge", "adopted by a new supervisor"); }

void Worker::on_broken(const Error& why) {
  if (log::current() == nullptr) {
    log::Settings logs;
    logs.error = std::move(error_log_);
    log::init(std::move(logs));
  }
  log_event(log::Level::error, "edge", "worker cannot go on", kv("reason", text_of(why)));
  leave(1);
}

void Worker::leave(int status) {
  exit_status_ = status;
  // Resets rather than half a body: the destructors would close, which a client might take for an end.
  if (edge_) edge_->abort_all(Error{Errc::closed, "the worker ends", {}});
  loop_.stop();
}

}  // namespace ebb::edge
