// The whole life of a connection in a worker:
//
//   on_accepted -> live: handshake (none for dokodemo-door) -> serve: route
//                    -> offer: to the broker, as the visitor or the tunnel of a portal
//                    -> relay: through an outbound, here
//                    -> MuxServer: its streams are served one by one
#include "worker/edge/session.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "common/net/linger.h"
#include "ipc/state_blob.h"
#include "worker/edge/mux_server.h"
#include "worker/protocols/table.h"
#include "worker/relay/socket_side.h"

namespace ebb::edge {
namespace {

constexpr auto kDeadAfter = std::chrono::seconds(30);

void put_address(const IpAddress& ip, std::array<std::uint8_t, 16>& out) {
  if (ip.v6) {
    out = ip.bytes;
    return;
  }
  out = {};
  out[10] = out[11] = 0xff;  // IPv4 mapped
  std::copy_n(ip.bytes.begin(), 4, out.begin() + 12);
}

ipc::OfferRecord record_of(const Request& request, int fd) {
  ipc::OfferRecord out;
  out.accepted_ns = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(request.accepted.time_since_epoch()).count());
  socklen_t length = sizeof out.cookie;
  ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &out.cookie, &length);
  out.inbound = static_cast<std::uint16_t>(request.inbound->index);
  if (request.user) out.user = static_cast<std::uint32_t>(*request.user);
  out.family = static_cast<std::uint8_t>(request.source.ip.v6 ? AF_INET6 : AF_INET);
  put_address(request.source.ip, out.peer);
  out.peer_port = request.source.port;
  sockaddr_storage storage{};
  length = sizeof storage;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length) == 0) {
    if (const auto local = endpoint_from(reinterpret_cast<sockaddr*>(&storage))) {
      put_address(local->ip, out.local);
      out.local_port = local->port;
    }
  }
  return out;
}

/// What has to travel with a connection that was read from. nullopt: it cannot travel.
std::optional<Bytes> blob_of(const Request& request, const Client& client) {
  ipc::BlobWriter blob;
  if (!protocols::save(client.layers, client.unread, blob)) return std::nullopt;
  ipc::Meta meta;
  meta.target = request.target;
  if (const auto* user = request.inbound->user(request.user)) meta.user = user->email;
  auto encoded = ipc::encode_meta(meta);
  if (!encoded) {
    meta.user.clear();  // only an e-mail can be that long; the broker knows the user by number
    encoded = ipc::encode_meta(meta);
  }
  if (!encoded || !blob.add(ipc::Tlv::meta, *encoded)) return std::nullopt;
  return blob.take();
}

}  // namespace

bool may_register(const config::Inbound& inbound, const Endpoint& source, const config::Portal& portal) {
  return portal.allow_unauthenticated || inbound.authenticates() || source.ip.loopback();
}

void Edge::on_accepted(Accepted accepted) {
  ++counts_.accepted;
  Request request;
  request.inbound = &inbounds_[accepted.inbound];
  request.source = accepted.source;
  request.accepted = loop_.now();
  request.conn = ++last_conn_;
  if (request.inbound->fixed) {
    request.target = *request.inbound->fixed;
    return serve(request, {std::move(accepted.socket), nullptr, {}, {}});
  }
  if (sessions_.size() >= config_.settings.limits.max_handshakes && !sessions_.empty()) {
    sessions_.front()->abort(Error{Errc::overload, "too many unfinished handshakes", {}});
  }
  net::tune_socket(accepted.socket.get(), kDeadAfter);
  auto stream = std::make_unique<net::TcpStream>(loop_, std::move(accepted.socket));
  sessions_.push_back(std::make_unique<Session>(*this, std::move(request), std::move(stream)));
  Session& session = *sessions_.back();
  session.place_ = std::prev(sessions_.end());
  session.start();
}

Session::Session(Edge& edge, Request request, std::unique_ptr<net::Stream> stream)
    : edge_(edge),
      request_(std::move(request)),
      client_(std::move(stream), request_.inbound->door->max_unread()),
      life_(live()) {}

net::Task<bool> Session::live() {
  auto greeted = co_await request_.inbound->door->greet(client_);
  edge_.session_ended(*this);  // off the list of handshakes; destroyed at the end of the wake-up
  if (!greeted) {
    failed(greeted.error());
    co_return false;
  }
  request_.target = std::move(greeted->target);
  request_.user = greeted->user;
  request_.mux = greeted->mux;
  Client client = rest_of_client();
  client.layers = std::move(greeted->layers);
  edge_.serve(request_, std::move(client));
  co_return true;
}

Client Session::rest_of_client() {
  auto rest = client_.release();
  return {Fd{}, std::move(rest.stream), std::move(rest.unread), {}};
}

void Session::failed(const Error& why) {
  ++edge_.counts_.handshakes_failed;
  const bool refused = why.code == Errc::auth;
  const std::string protocol(request_.inbound->door->name());
  log_event(refused ? log::Level::info : log::Level::debug, "inbound/" + protocol, "handshake failed",
            kv("conn", request_.conn), kv("peer", request_.source), kv("reason", why));
  if (refused) {
    const std::string reason = "proxy/" + protocol + ": " + why.what;
    log_access({.source = &request_.source, .accepted = false, .reason = reason});
  }
  const Client closed = rest_of_client();  // plainly, with nothing said, like every stock server
}

void Edge::serve(const Request& request, Client client) {
  if (request.mux) {
    muxes_.push_back(std::make_unique<MuxServer>(*this, request, std::move(client.layers)));
    muxes_.back()->start(std::move(client.stream), std::move(client.unread));
    if (drain_spread_end_) muxes_.back()->drain(leaving_time());
    return;
  }
  const auto& way = request.inbound->way;
  const routing::Decision decision = way ? *way : router_.decide(subject_of(request));
  if (decision.kind == routing::Decision::Kind::none) {
    return refuse(request, std::move(client), log::Level::warning, "there is no outbound");
  }
  if (decision.kind == routing::Decision::Kind::portal) {
    offer(request, std::move(client), decision.index);
    return log_accepted(request, request.target, decision, false);  // afterwards: until then it would die with us
  }
  log_accepted(request, request.target, decision, false);
  if (request.target.network == Network::udp) return carry_datagrams(request, std::move(client), decision.index);
  relay(request, std::move(client), decision.index);
}

/// The connection is a stream of datagrams (VMess command UDP).
void Edge::carry_datagrams(const Request& request, Client client, std::size_t outbound) {
  auto origin = outbounds_.open_flow(outbound, request.target);
  if (origin == nullptr || client.layers.empty() || !request.user) {
    return refuse(request, std::move(client), log::Level::info, "datagrams lead nowhere there");
  }
  const Member who{request.inbound->index, *request.user};
  auto end = std::make_unique<flow::Listed<Member>>(flow_roster_, who, loop_, blocks_, std::move(client.layers));
  auto& attached = *end;
  flows_.start(std::move(end), std::move(origin));
  attached.attach(std::move(client.stream), std::move(client.unread));
}

void Edge::relay(const Request& request, Client client, std::size_t outbound) {
  if (client.stream == nullptr) {
    net::tune_socket(client.socket.get(), kDeadAfter);
    client.stream = std::make_unique<net::TcpStream>(loop_, std::move(client.socket));
  }
  std::unique_ptr<relay::SocketSide> side;
  if (request.user) {
    const Member who{request.inbound->index, *request.user};
    side = std::make_unique<relay::Listed<Member>>(roster_, who, loop_, blocks_, std::move(client.layers));
  } else {
    side = std::make_unique<relay::SocketSide>(loop_, blocks_, std::move(client.layers));
  }
  auto& attached = *side;
  const auto& level = config_.level(request.inbound->level(request.user));
  relays_.start(std::move(side), outbounds_.open(outbound, request.target), outbound::relay_times(level));
  attached.attach(std::move(client.stream), std::move(client.unread));
}

void Edge::offer(const Request& request, Client client, std::size_t portal_index) {
  const config::Portal& portal = config_.portals[portal_index];
  const std::string* name = request.target.name();
  const bool registers = name != nullptr && *name == portal.domain && request.target.network == Network::tcp;
  if (registers && !may_register(*request.inbound->settings, request.source, portal)) {
    // As a visitor the bridge would send it straight back: a registration by a stranger (spec/reverse.md 4.6).
    return refuse(request, std::move(client), log::Level::warning,
                  "it names the portal's domain without the right to register as a bridge");
  }
  Bytes blob;
  ipc::OfferClass klass = ipc::OfferClass::raw;
  if (client.stream != nullptr) {
    auto made = blob_of(request, client);
    if (!made) return refuse(request, std::move(client), log::Level::error, "its state is too large to be handed over");
    blob = std::move(*made);
    klass = ipc::OfferClass::state;
    client.socket = client.stream->release();
  }
  ipc::OfferRecord record = record_of(request, client.socket.get());
  record.portal = static_cast<std::uint16_t>(portal_index);
  record.klass = klass;
  record.network = static_cast<std::uint8_t>(request.target.network);
  record.role = registers ? ipc::OfferRole::tunnel : ipc::OfferRole::visitor;
  if (klass == ipc::OfferClass::state) record.flags |= ipc::offer_flags::nodelay;
  ++counts_.offered;
  if (!handoff_.offer(record, client.socket, blob)) {
    refuse(request, std::move(client), log::Level::warning, "it cannot be offered to the broker");
  }
}

void Edge::on_offer_ended(const ipc::OfferRecord& record, ipc::OfferOutcome outcome, Fd fd) {
  if (outcome == ipc::OfferOutcome::taken) {
    ++counts_.taken;
    return;
  }
  ++counts_.offers_failed;
  std::string_view why = "no tunnel came up in time";
  if (outcome == ipc::OfferOutcome::overload) why = "too many wait for this portal";
  if (outcome == ipc::OfferOutcome::bad_state) why = "the broker could not use its state";
  if (outcome == ipc::OfferOutcome::gave_up) why = "there is no broker";
  if (outcome == ipc::OfferOutcome::link_fault) why = "the broker broke the protocol";
  const auto& tag = config_.portals[record.portal].tag;
  if (record.role == ipc::OfferRole::tunnel) {
    log_event(log::Level::warning, "edge", "tunnel was refused", kv("tag", tag), kv("reason", why));
  } else if (loop_.now() < next_refusal_warning_) {
    ++refused_quietly_;
  } else {
    log_event(log::Level::warning, "edge", "visitor was refused", kv("tag", tag), kv("reason", why),
              kv("others", refused_quietly_));
    next_refusal_warning_ = loop_.now() + std::chrono::seconds(1);
    refused_quietly_ = 0;
  }
  if (fd) net::linger_close(std::make_unique<net::TcpStream>(loop_, std::move(fd)));
}

void Edge::refuse(const Request& request, Client client, log::Level level, std::string_view why) {
  log_event(level, "edge", "connection was refused", kv("conn", request.conn),
            kv("tag", request.inbound->settings->tag), kv("peer", request.source), kv("target", request.target),
            kv("reason", why));
  if (client.socket) client.stream = std::make_unique<net::TcpStream>(loop_, std::move(client.socket));
  if (client.stream) net::linger_close(std::move(client.stream));
}

routing::Subject Edge::subject_of(const Request& request) const {
  const auto* user = request.inbound->user(request.user);
  return {request.inbound->settings->tag, &request.target, &request.source,
          user != nullptr ? std::string_view(user->email) : std::string_view{}};
}

const std::string& Edge::tag_of(const routing::Decision& decision) const {
  return decision.kind == routing::Decision::Kind::portal ? config_.portals[decision.index].tag
                                                          : config_.outbounds[decision.index].tag;
}

void Edge::log_accepted(const Request& request, const Target& target, const routing::Decision& decision,
                        bool mux) const {
  const auto* user = request.inbound->user(request.user);
  log::AccessLine line;
  line.source = &request.source;
  if (mux) line.source_network = Network::tcp;
  line.target = &target;
  line.outbound_tag = tag_of(decision);
  if (user != nullptr) line.user = user->email;
  log_access(line);
}

void Edge::session_ended(Session& session) {
  ended_sessions_.splice(ended_sessions_.end(), sessions_, session.place_);
  loop_.defer(sweep_);
}

}  // namespace ebb::edge
