#include "worker/outbound/outbounds.h"

#include <chrono>
#include <optional>
#include <utility>

#include "common/base/log.h"
#include "common/protocol/vmess/client.h"
#include "worker/layers/vmess/vmess.h"
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

  void abort() override {
    dial_.reset();
    SocketSide::abort();
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
  void abort() override {}
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

UnixSeconds unix_now() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

vmess::ClientOptions client_options(const config::VmessUser& user) {
  vmess::ClientOptions out;
  out.user = {user.id, user.alter_id};
  switch (user.security) {
    case config::VmessSecurity::auto_: out.security = vmess::auto_security(); break;
    case config::VmessSecurity::aes_128_gcm: out.security = vmess::Security::aes_128_gcm; break;
    case config::VmessSecurity::chacha20_poly1305: out.security = vmess::Security::chacha20_poly1305; break;
    case config::VmessSecurity::none:
    case config::VmessSecurity::zero: out.security = vmess::Security::none; break;
  }
  out.options = user.security == config::VmessSecurity::zero ? 0 : vmess::usual_options(out.security);
  return out;
}

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

Result<Way> Outbounds::way(std::size_t index, const Target& target) {
  const auto& outbound = config_.outbounds[index];
  Result<Way> found = std::unexpected{Error{Errc::refused, "a blackhole leads nowhere", {}}};
  if (const auto* freedom_settings = std::get_if<config::FreedomOutbound>(&outbound.protocol)) {
    found = freedom(*freedom_settings, target);
  } else if (const auto* vmess_settings = std::get_if<config::VmessOutbound>(&outbound.protocol)) {
    found = vmess(*vmess_settings, target);
  }
  if (found) found->plan.bind = outbound.send_through;
  return found;
}

Result<Way> Outbounds::freedom(const config::FreedomOutbound& settings, const Target& target) const {
  if (target.network != Network::tcp) return std::unexpected{Error{Errc::refused, "UDP is not carried yet", {}}};
  Way out;
  out.plan.host = target.host;
  out.plan.port = target.port;
  if (settings.redirect) {
    if (settings.redirect->host) out.plan.host = *settings.redirect->host;
    if (settings.redirect->port != 0) out.plan.port = settings.redirect->port;
  }
  if (out.plan.port == 0)
    return std::unexpected{Error{Errc::refused, "port 0 cannot be dialled: " + target.text(), {}}};
  return out;
}

Result<Way> Outbounds::vmess(const config::VmessOutbound& settings, const Target& target) {
  const auto& server = settings.servers[turn_++ % settings.servers.size()];
  const auto& user = server.users[around_.random.below(static_cast<std::uint32_t>(server.users.size()))];
  const auto handshake = vmess::ClientHandshake::make(client_options(user), target, unix_now(), around_.random);
  if (!handshake) return std::unexpected{explain(handshake.error()).in("VMess request for " + target.text())};
  Way out;
  out.plan.host = server.address;
  out.plan.port = server.port;
  out.stack.push(std::make_unique<layers::VmessClientLayer>(*handshake, around_.random));
  return out;
}

}  // namespace ebb::outbound
