// Everything the connections of one worker share, and the ways a connection goes: session.cc tells the story.
#pragma once

#include <array>
#include <chrono>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/log.h"
#include "common/base/sparingly.h"
#include "common/config/people.h"
#include "common/crypto/random.h"
#include "common/net/uv_loop.h"
#include "common/routing/matcher.h"
#include "common/routing/router.h"
#include "ipc/replay_table.h"
#include "worker/edge/handoff.h"
#include "worker/edge/listeners.h"
#include "worker/flow/roster.h"
#include "worker/inbound/door.h"
#include "worker/outbound/outbounds.h"
#include "worker/relay/roster.h"
#include "worker/relay/shortage.h"

namespace ebb::edge {

class MuxServer;
class Session;

/// An inbound of the configuration at work.
struct Inbound {
  const config::Inbound* settings = nullptr;
  std::size_t index = 0;
  std::optional<Target> fixed;           // where everybody goes
  std::optional<routing::Decision> way;  // and what routing says of that, when the visitor does not matter
  std::unique_ptr<inbound::Door> door;   // else: who asks them
  /// Its clients have something to say before it is known where they go: some of them, at least.
  bool converses() const { return door != nullptr || settings->accept_proxy_protocol; }
  bool may_lead_to_portal = false;

  const config::User* user(std::optional<std::size_t> index_of_user) const;
  std::uint32_t level(std::optional<std::size_t> index_of_user) const;
};

/// Who asks for what. What routing and the logs look at.
struct Request {
  const Inbound* inbound = nullptr;
  Endpoint source;                // as a proxy in front told it, else the socket's peer
  std::optional<Endpoint> local;  // where the visitor arrived, as that proxy told it; else the socket's own address
  TimePoint accepted{};
  std::uint32_t conn = 0;  // number in the logs
  Target target;
  std::optional<std::size_t> user;  // index in the inbound's list
  bool mux = false;                 // the streams inside say where to
};

/// A user of an inbound: both indices.
using Member = std::pair<std::size_t, std::size_t>;

/// What a mux client does that he may not.
enum class MuxFault : std::uint8_t {
  malformed,  // frames that are none: his connection ends
  deaf,       // he takes nothing of what he makes us say: the same
  reopened,   // a stream under the number of one that is open: that one ends
  surplus,    // more streams than one connection may have: refused
};
inline constexpr std::size_t kMuxFaults = 4;
std::string_view name_of(MuxFault fault);

/// The connection itself: a socket nothing was read from, or a stream, what lies on it, and what was read of that.
struct Client {
  Fd socket;
  std::unique_ptr<net::Stream> stream;
  Bytes unread;
  layers::Stack layers;
};

class Edge {
 public:
  struct Counts {
    std::uint64_t accepted = 0;
    std::uint64_t handshakes_failed = 0;  // the next one included
    std::uint64_t proxy_headers_refused = 0;
    std::uint64_t offered = 0;
    std::uint64_t taken = 0;
    std::uint64_t offers_failed = 0;
    std::uint64_t mux_streams_refused = 0;  // there was no room for them
    std::array<std::uint64_t, kMuxFaults> mux_faults{};
  };

  /// Errors: config (rules or users that cannot be used), protocol (an inbound lacks what it needs).
  static Result<std::unique_ptr<Edge>> make(net::UvLoop& loop, config::Config config,
                                            std::optional<ipc::ReplayTable> replays);
  Edge(const Edge&) = delete;
  Edge& operator=(const Edge&) = delete;
  ~Edge();

  Listeners& listeners() { return listeners_; }
  Handoff& handoff() { return handoff_; }
  const flow::Flows& flows() const { return flows_; }
  const config::Config& config() const { return config_; }
  void start();
  void pause();
  /// Closes the slots. Handshakes under way are finished, offers answered, relays run on; connections that can end
  /// without a loss do, spread over `spread`.
  void drain(Duration spread);
  /// Resets what a user, named by e-mail (letters in either case) or UUID, has open here, and how many that were: not
  /// what was offered to the broker, nor who has yet to say who he is.
  std::size_t kick(std::string_view user);
  /// Ends everything that is carried.
  void abort_all(const Error& why);

  std::size_t connections() const;
  /// Nothing is carried, offered or being closed.
  bool idle() const;
  std::uint32_t spare_fds() const;
  const Counts& counts() const { return counts_; }

 private:
  friend class MuxServer;
  friend class Session;
  Edge(net::UvLoop& loop, config::Config config, routing::Router router, std::optional<ipc::ReplayTable> replays);
  Result<> open_inbounds();

  // accepting (edge.cc)
  bool wanted(std::size_t inbound);
  bool room_for_handshake();
  bool room_for_stream(std::size_t of_this_mux) const;
  void tick();
  void look_again_soon();

  // the life of a connection (session.cc)
  void on_accepted(Accepted accepted);
  void serve(const Request& request, Client client);
  void offer(const Request& request, Client client, std::size_t portal);
  void relay(const Request& request, Client client, std::size_t outbound);
  void carry_datagrams(const Request& request, Client client, std::size_t outbound);
  void refuse(const Request& request, Client client, log::Level level, std::string_view why);
  void on_offer_ended(const ipc::OfferRecord& record, ipc::OfferOutcome outcome, Fd fd);
  void session_ended(Session& session);
  void mux_ended(MuxServer& server);
  void mux_faulty(const Request& request, MuxFault fault);
  routing::Subject subject_of(const Request& request) const;
  void log_accepted(const Request& request, const Target& target, const routing::Decision& decision, bool mux) const;
  const std::string& tag_of(const routing::Decision& decision) const;
  TimePoint leaving_time();
  void sweep();

  net::UvLoop& loop_;
  const config::Config config_;
  routing::Router router_;
  std::optional<ipc::ReplayTable> replays_;
  crypto::SystemRandom random_;
  relay::BlockPool blocks_;
  relay::Roster<Member> roster_;
  relay::Relays relays_;
  relay::Shortage shortage_{loop_, blocks_};
  flow::Roster<Member> flow_roster_;
  flow::Flows flows_;
  outbound::Outbounds outbounds_;
  std::vector<Inbound> inbounds_;
  routing::IpMatcher trusted_proxies_;
  Duration handshake_limit_{};
  Handoff handoff_;
  Listeners listeners_;
  std::list<std::unique_ptr<Session>> sessions_;  // unfinished handshakes, oldest first
  std::list<std::unique_ptr<MuxServer>> muxes_;
  std::list<std::unique_ptr<Session>> ended_sessions_;  // ended in their own callbacks
  std::list<std::unique_ptr<MuxServer>> ended_muxes_;
  Counts counts_;
  std::uint32_t last_conn_ = 0;
  std::size_t max_connections_ = 0;
  std::size_t max_fds_ = 0;
  bool started_ = false;
  std::optional<TimePoint> drain_spread_end_;  // draining: idle connections are gone by then
  bool short_of_fds_ = false;
  Sparingly refusals_;        // of visitors whom the broker did not take
  Sparingly proxy_refusals_;  // of trusted proxies that sent no good header
  Sparingly mux_refusals_;    // of mux streams for which there was no room
  std::array<Sparingly, kMuxFaults> mux_faults_;
  net::Timer tick_;
  net::Timer look_again_;
  net::Deferred sweep_;
};

}  // namespace ebb::edge
