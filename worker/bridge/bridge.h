// One bridge of the configuration: dials its portal, keeps as many tunnels as the load wants, and sends the streams
// that come out of them to their origins.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/sparingly.h"
#include "common/config/config.h"
#include "common/net/dial.h"
#include "common/reverse/bridge_plan.h"
#include "common/reverse/bridge_tunnel.h"
#include "common/routing/router.h"
#include "worker/outbound/outbounds.h"
#include "worker/tunnel/link.h"

namespace ebb::bridge {

class Bridge;

/// What a bridge needs from the process it lives in. The three pointers follow the committed configuration: nothing
/// keeps what they point to beyond a call.
struct Home {
  outbound::Surroundings around;
  const config::Config* config;
  const routing::Router* router;
  outbound::Outbounds* outbounds;
  relay::Relays& relays;
  reverse::Hello hello;
  /// A stream that routing sends to a portal of this very process; null: refused.
  std::function<std::unique_ptr<relay::Side>(std::size_t portal, const Target& target, const VisitorAddress& visitor)>
      open_in_portal;
  /// Whether this process may have one more stream or flow; null: as many as come.
  std::function<bool()> has_room;
  /// Where streams of datagrams live, and the same for them.
  flow::Flows* flows = nullptr;
  std::function<std::unique_ptr<flow::DatagramEnd>(std::size_t portal, const Target& target,
                                                   const VisitorAddress& visitor)>
      open_flow_in_portal;
};

/// A tunnel that is up.
class BridgeLink final : public tunnel::Link<reverse::BridgeTunnel> {
 public:
  BridgeLink(Bridge& bridge, layers::Stack stack, std::string peer);
  void start(std::unique_ptr<net::TcpStream> stream);
  bool answered() const { return answered_; }

 private:
  void on_tunnel_moved() override;
  void on_tunnel_over(const Error& why) override;
  void on_stream_opened(StreamId stream, const Target& target, ConstSpan trailing) override;
  void open_flow(StreamId stream, const Target& target, const VisitorAddress& visitor,
                 const routing::Decision& decision);
  void leads_nowhere(StreamId stream, const Target& target);
  /// An origin that reads headers expects one each time, also when there is nothing to say.
  Bytes header_for(Network network, const VisitorAddress& visitor) const;

  Bridge& bridge_;
  reverse::BridgeTunnel::State seen_state_ = reverse::BridgeTunnel::State::active;
  std::size_t seen_sessions_ = 0;
  bool answered_ = false;  // the portal has spoken
  net::Timer settled_;
};

class Bridge {
 public:
  Bridge(const config::Bridge& settings, Home& home);
  Bridge(const Bridge&) = delete;
  Bridge& operator=(const Bridge&) = delete;
  ~Bridge();

  /// Dials the first tunnels.
  void start();
  /// No new tunnels; those that are up keep serving.
  void stop_dialling();
  /// Planned replacement: stop_dialling(), and portals of our own are told to choose tunnels of the successor.
  void drain();
  /// Takes it back: dials again, and portals of our own may choose its tunnels.
  void resume();
  /// Ends one tunnel and resets the streams it carries; how many. nullopt: it has no such tunnel.
  std::optional<std::size_t> kick(TunnelId tunnel, const Error& why);
  /// Dials another tunnel in place of this one, and tells the portal. False: no such tunnel, or a stock portal's, which
  /// cannot be told.
  bool drain(TunnelId tunnel);
  /// Ends everything.
  void abort(const Error& why);
  /// A new configuration has it too: the settings it came with, and those in its home, from now on.
  void update(const config::Bridge& settings);
  const config::Bridge& settings() const { return settings_; }
  const std::vector<std::unique_ptr<BridgeLink>>& links() const { return links_; }
  std::size_t dialling() const { return dials_.size(); }
  const std::string& last_failure() const { return last_failure_; }

 private:
  friend class BridgeLink;
  struct Dialling {
    layers::Stack stack;
    std::string peer;
    std::unique_ptr<net::Dial> dial;
  };

  BridgeLink* link(TunnelId tunnel) const;
  void review();
  void review_soon() { home_.around.loop.defer(review_later_); }
  void dial();
  void on_dialled(Dialling& which, Result<std::unique_ptr<net::TcpStream>> stream);
  void dial_failed(const Error& why);
  void link_over(BridgeLink& link, const Error& why);
  reverse::BridgeLoad load() const;

  config::Bridge settings_;
  Home& home_;
  reverse::BridgePlan plan_;
  std::vector<std::unique_ptr<BridgeLink>> links_;
  std::vector<std::unique_ptr<Dialling>> dials_;
  std::vector<std::unique_ptr<Dialling>> done_dials_;  // ended in their own callback
  net::Timer timer_;
  net::Deferred review_later_;
  std::string last_failure_;
  bool dialling_allowed_ = false;
  Sparingly full_;       // of streams for which there was no room,
  Sparingly nowhere_;    // of those that lead nowhere,
  Sparingly closed_[2];  // and of tunnels, unexpected and expected
};

}  // namespace ebb::bridge
