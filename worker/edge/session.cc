// The whole life of a connection in a worker:
//
//   on_accepted -> live: PROXY header, handshake (none for dokodemo-door) -> serve: route
//                    -> offer: to the broker, as the visitor or the tunnel of a portal
//                    -> relay: through an outbound, here
//                    -> MuxServer: its streams are served one by one
#include "worker/edge/session.h"

#include "common/net/linger.h"
#include "ipc/state_blob.h"
#include "worker/edge/mux_server.h"
#include "worker/edge/record.h"
#include "worker/inbound/proxy_header.h"
#include "worker/protocols/table.h"
#include "worker/relay/socket_side.h"

namespace ebb::edge {
namespace {

constexpr auto kDeadAfter = std::chrono::seconds(30);
constexpr std::size_t kMaxBehindHeader = 4096;  // of a PROXY header and what is read with it

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
  const bool from_proxy =
      request.inbound->settings->accept_proxy_protocol && trusted_proxies_.matches(request.source.ip);
  if (request.inbound->fixed) request.target = *request.inbound->fixed;
  if (request.inbound->fixed && !from_proxy) {
    return serve(request, {std::move(accepted.socket), nullptr, {}, {}});
  }
  if (sessions_.size() >= config_.settings.limits.max_handshakes && !sessions_.empty()) {
    sessions_.front()->abort(Error{Errc::overload, "too many unfinished handshakes", {}});
  }
  net::tune_socket(accepted.socket.get(), kDeadAfter);
  auto stream = std::make_unique<net::TcpStream>(loop_, std::move(accepted.socket));
  sessions_.push_back(std::make_unique<Session>(*this, std::move(request), std::move(stream), from_proxy));
  Session& session = *sessions_.back();
  session.place_ = std::prev(sessions_.end());
  session.start();
}

Session::Session(Edge& edge, Request request, std::unique_ptr<net::Stream> stream, bool from_proxy)
    : edge_(edge),
      request_(std::move(request)),
      from_proxy_(from_proxy),
      client_(std::move(stream), request_.inbound->door ? request_.inbound->door->max_unread() : kMaxBehindHeader),
      life_(live()) {}

net::Task<bool> Session::live() {
  auto known = co_await learn_client();
  edge_.session_ended(*this);  // off the list of handshakes; destroyed at the end of the wake-up
  if (!known) {
    failed(known.error());
    co_return false;
  }
  Client client = rest_of_client();
  client.layers = std::move(layers_);
  edge_.serve(request_, std::move(client));
  co_return true;
}

/// Everything that `request_` has to say.
net::Task<Result<>> Session::learn_client() {
  if (from_proxy_) {
    auto told = co_await inbound::accept_proxy_header(client_, edge_.handshake_limit_);
    if (!told) {
      refuse_proxy(told.error());
      co_return std::unexpected(std::move(told.error()));
    }
    request_.source = told->source.value_or(request_.source);
    request_.local = told->local;
  }
  const auto& door = request_.inbound->door;
  if (!door) co_return Result<>();  // the target is in the configuration
  auto greeted = co_await door->greet(client_);
  if (!greeted) co_return std::unexpected(std::move(greeted.error()));
  request_.target = std::move(greeted->target);
  request_.user = greeted->user;
  request_.mux = greeted->mux;
  layers_ = std::move(greeted->layers);
  co_return Result<>();
}

/// The proxy's own address is all there is to say: whom he speaks for is not known.
void Session::refuse_proxy(const Error& why) {
  ++edge_.counts_.proxy_headers_refused;
  if (const auto others = edge_.proxy_refusals_.say(edge_.loop_.now())) {
    log_event(log::Level::warning, "edge", "trusted proxy sent no good PROXY header",
              kv("tag", request_.inbound->settings->tag), kv("peer", request_.source), kv("reason", why),
              kv("others", *others));
  }
}

Client Session::rest_of_client() {
  auto rest = client_.release();
  return {Fd{}, std::move(rest.stream), std::move(rest.unread), {}};
}

void Session::failed(const Error& why) {
  ++edge_.counts_.handshakes_failed;
  const bool refused = why.code == Errc::auth;
  const auto& door = request_.inbound->door;
  const std::string protocol(door ? door->name() : std::string_view("dokodemo"));
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

/// The connection is a stream of datagrams.
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
    // As a visitor the bridge would send it straight back: a registration by a stranger.
    return refuse(request, std::move(client), log::Level::warning,
                  "it names the portal's domain without the right to register as a bridge");
  }
  Bytes blob;
  ipc::OfferClass klass = ipc::OfferClass::raw;
  if (!client.layers.empty()) {
    auto made = blob_of(request, client);
    if (!made) return refuse(request, std::move(client), log::Level::error, "its state is too large to be handed over");
    blob = std::move(*made);
    klass = ipc::OfferClass::state;
  } else if (!client.unread.empty()) {  // behind a PROXY header
    ipc::BlobWriter behind;
    if (!behind.add(ipc::Tlv::unread_plain, client.unread)) {
      return refuse(request, std::move(client), log::Level::error, "its first bytes are too many to be handed over");
    }
    blob = behind.take();
    klass = ipc::OfferClass::state;
  }
  if (client.stream != nullptr) client.socket = client.stream->release();
  ipc::OfferRecord record = record_of(request, client.socket.get());
  record.portal = static_cast<std::uint16_t>(portal_index);
  record.klass = klass;
  record.network = static_cast<std::uint8_t>(request.target.network);
  record.role = registers ? ipc::OfferRole::tunnel : ipc::OfferRole::visitor;
  if (client.stream != nullptr) record.flags |= ipc::offer_flags::nodelay;
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
  } else if (const auto others = refusals_.say(loop_.now())) {
    log_event(log::Level::warning, "edge", "visitor was refused", kv("tag", tag), kv("reason", why),
              kv("others", *others));
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
