#include "worker/outbound/outbounds.h"

#include <optional>
#include <utility>

#include "common/base/log.h"
#include "worker/flow/origin_end.h"
#include "worker/flow/wire_end.h"
#include "worker/relay/socket_side.h"

namespace ebb::outbound {
namespace {

/// A socket side whose connection is still being made.
class DialSide final : public relay::SocketSide {
 public:
  DialSide(Surroundings around, Way way) : SocketSide(around.loop, around.blocks, std::move(way.stack)) {
    // An origin that goes on sending to nobody is not read to its end: a whole download would be fetched for the bin.
    set_parting({std::chrono::seconds(1), std::size_t{256} << 10});
    dial_.emplace(around.loop, std::move(way.plan),
                  [this](Result<std::unique_ptr<net::TcpStream>> stream) { on_dialled(std::move(stream)); });
  }

  void abort(const Error& why) override {
    dial_.reset();
    SocketSide::abort(why);
  }
  void close() override {
    dial_.reset();
    SocketSide::close();
  }

 private:
  void on_dialled(Result<std::unique_ptr<net::TcpStream>> stream) {
    if (stream) return attach(std::move(*stream));
    if (log_enabled(log::Level::info)) {
      log_event(log::Level::info, "outbound", "origin could not be reached", kv("reason", stream.error()));
    }
    relay_->on_failed(*this, stream.error());
  }

  std::optional<net::Dial> dial_;
};

/// Leads nowhere: ends at once, after an answer if it has one.
class EndedSide final : public relay::Side {
 public:
  EndedSide(net::Loop& loop, std::string_view answer, std::optional<Error> failure)
      : answer_(answer),
        failure_(std::move(failure)),
        later_([](void* self) { static_cast<EndedSide*>(self)->end(); }, this) {
    loop.defer(later_);
  }
  void send(ConstSpan) override {}
  void flush() override {}
  void send_end() override {}
  void abort(const Error&) override {}
  void wind_down() override { relay_->on_wound_down(*this); }
  std::size_t room() override { return kEverything; }
  std::size_t queued() const override { return 0; }
  std::uint64_t delivered() const override { return 0; }
  void resume() override {}
  void close() override { later_.cancel(); }

 private:
  void end() {
    if (failure_) return relay_->on_failed(*this, *failure_);
    if (!answer_.empty()) {
      relay_->on_data(*this, as_bytes(answer_));
      relay_->on_batch_end(*this);
    }
    relay_->on_end(*this, true);
  }

  std::string_view answer_;
  std::optional<Error> failure_;
  net::Deferred later_;
};

constexpr std::string_view kForbidden =
    "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nCache-Control: max-age=3600, public\r\nContent-Length: 0\r\n\r\n";

}  // namespace

relay::RelayTimes relay_times(const config::PolicyLevel& level) {
  return {level.conn_idle, level.downlink_only, level.uplink_only};
}

tunnel::TunnelLimits tunnel_limits(const config::Settings& settings) {
  tunnel::TunnelLimits out;
  out.stream_buffer = settings.limits.stream_buffer;
  out.tunnel_buffer = settings.limits.tunnel_buffer;
  out.source_buffer = 2 * settings.limits.stream_buffer;
  out.min_drain = settings.limits.min_drain;
  out.stall = settings.timers.stall;
  return out;
}

std::unique_ptr<relay::Side> Outbounds::open(std::size_t index, const Target& target) {
  const auto& outbound = config_.outbounds[index];
  if (const auto* hole = std::get_if<config::BlackholeOutbound>(&outbound.protocol)) {
    return std::make_unique<EndedSide>(around_.loop, hole->http_response ? kForbidden : std::string_view{},
                                       std::nullopt);
  }
  auto found = way(index, target);
  if (!found) {
    return std::make_unique<EndedSide>(around_.loop, std::string_view{}, std::move(found.error()));
  }
  found->plan.attempts = net::DialPlan::kOutboundAttempts;
  return std::make_unique<DialSide>(around_, std::move(*found));
}

std::unique_ptr<flow::DatagramEnd> Outbounds::open_flow(std::size_t index, const Target& target) {
  const auto& outbound = config_.outbounds[index];
  if (const auto* settings = std::get_if<config::FreedomOutbound>(&outbound.protocol)) {
    flow::OriginWay way{target.host, target.port, settings->redirect.has_value(), outbound.send_through};
    if (settings->redirect && settings->redirect->host) way.host = *settings->redirect->host;
    if (settings->redirect && settings->redirect->port != 0) way.port = settings->redirect->port;
    if (way.port == 0) return nullptr;
    return std::make_unique<flow::OriginEnd>(around_.loop, std::move(way));
  }
  if (std::holds_alternative<config::BlackholeOutbound>(outbound.protocol)) {
    return std::make_unique<flow::NowhereEnd>();
  }
  auto found = way(index, target);
  if (!found || found->stack.empty()) {
    if (!found) log_event(log::Level::info, "outbound", "flow leads nowhere", kv("reason", found.error()));
    return nullptr;
  }
  found->plan.attempts = net::DialPlan::kOutboundAttempts;
  auto end = std::make_unique<flow::WireEnd>(around_.loop, around_.blocks, std::move(found->stack));
  end->dial(around_.loop, std::move(found->plan));
  return end;
}

Result<Way> Outbounds::way(std::size_t index, const Target& target) {
  const auto& outbound = config_.outbounds[index];
  auto found = find_way_(outbound, target, {around_.random, turn_});
  if (found) found->plan.bind = outbound.send_through;
  return found;
}

}  // namespace ebb::outbound
