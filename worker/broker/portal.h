// One portal of the configuration: its pool of tunnels, and the visitors put onto them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/config/config.h"
#include "common/protocol/proxy_protocol/header.h"
#include "common/reverse/pool.h"
#include "common/reverse/portal_plan.h"
#include "common/reverse/portal_tunnel.h"
#include "worker/broker/generation_tables.h"
#include "worker/broker/stream_watch.h"
#include "worker/outbound/outbounds.h"
#include "worker/tunnel/link.h"

namespace ebb::broker {

class Portal;

/// What a portal needs from the process it lives in. The settings are those of the committed configuration.
struct PortalHome {
  outbound::Surroundings around;
  config::Settings settings;
  relay::Relays& relays;
  reverse::Hello hello;
  tunnel::SourceLedger sources{};  // what visitors of one address hold, over all portals
  /// Whose tunnel it is: what the committed configuration says of him.
  struct Account {
    std::uint32_t place = 0xffffffff;  // among all users, in file order
    std::string email;
  };
  std::function<Account(const Person&)> account = nullptr;
};

/// An accepted tunnel, authenticated by a worker.
struct TunnelOffer {
  std::unique_ptr<net::Stream> stream;
  layers::Stack stack;  // empty: plain
  Bytes unread;
  std::string peer;
  std::optional<Person> person;  // whose dialect to remember, and with whom the tunnel ends
};

class PortalLink final : public tunnel::Link<reverse::PortalTunnel> {
 public:
  PortalLink(Portal& portal, TunnelOffer& offer);
  void start(TunnelOffer offer);
  std::uint64_t bridge_key() const { return bridge_key_; }
  /// Whose tunnel it is, as far as its bridge says who it is.
  std::uint64_t bridge() const { return bridge_; }
  /// bridge() stays: it has said who it is, or will not.
  bool settled() const { return plan().state() != reverse::PortalTunnel::State::probing; }
  std::string address() const { return peer().substr(0, peer().rfind(':')); }
  const PortalHome::Account& account() const { return account_; }
  void look_up_account();
  void drain_in(Duration after);
  void help_came();
  void resume_service();
  const std::optional<Person>& person() const { return person_; }
  /// A stream to `target`: New goes out at once, and tells who the `visitor` is as this bridge can take it. Null when
  /// this tunnel cannot carry it.
  std::unique_ptr<tunnel::MuxSide> open(const Target& target, const VisitorAddress& visitor);
  /// The same for datagrams.
  std::unique_ptr<flow::DatagramEnd> open_flow(const Target& target, const VisitorAddress& visitor);

 private:
  /// A stock bridge learns nothing of the visitor: what stands behind it has to read it off the stream. Our own writes
  /// such a header itself, if its configuration says so.
  Bytes header_for(Network network, const VisitorAddress& visitor) const;

  /// What decides whether it takes visitors.
  struct Standing {
    reverse::PortalTunnel::State state = reverse::PortalTunnel::State::probing;
    bool takes_visitors = true;
    bool operator==(const Standing&) const = default;
  };

  void on_congestion_changed() override;
  Duration quiet_before_end() const override;
  void on_tunnel_moved() override;
  void identify();
  void on_tunnel_over(const Error& why) override;
  void on_stream_opened(StreamId, const Target&, ConstSpan) override {}  // bridges open nothing

  Portal& portal_;
  std::uint64_t bridge_key_;
  std::optional<Person> person_;
  PortalHome::Account account_;
  std::uint64_t bridge_ = 0;
  bool greeted_ = false;  // bridge_ is by the id it sent
  Standing seen_;
  net::Timer drain_;
};

class Portal {
 public:
  Portal(const config::Portal& settings, PortalHome& home);
  Portal(const Portal&) = delete;
  Portal& operator=(const Portal&) = delete;
  ~Portal();

  /// A bridge registers.
  void add_tunnel(TunnelOffer offer);
  /// Whether a visitor could be put onto a tunnel now, and `before` others before him.
  bool has_room(std::size_t before = 0) const;
  /// Puts `visitor`, who is `address`, on a tunnel. False: no tunnel takes it any more (the visitor is left as it was).
  bool serve(std::unique_ptr<relay::Side>& visitor, const Target& target, const config::PolicyLevel& level,
             std::uint64_t visitor_key, const VisitorAddress& address = {});
  /// Only the origin side, for a stream of a bridge in this same process. Null: no tunnel.
  std::unique_ptr<relay::Side> open(const Target& target, std::uint64_t visitor_key,
                                    const VisitorAddress& address = {});
  /// The origin end of a flow, on a tunnel where it stays. Null: no tunnel.
  std::unique_ptr<flow::DatagramEnd> open_flow(const Target& target, std::uint64_t visitor_key,
                                               const VisitorAddress& address = {});
  /// Ends every tunnel and stream.
  void abort(const Error& why);
  /// The same for the tunnels of people who are not allowed any more.
  void abort_unless(const std::function<bool(const Person&)>& allowed, const Error& why);
  /// Ends some of its tunnels and resets whom they carry. How many tunnels, and how many streams they had.
  struct Kicked {
    std::size_t tunnels = 0;
    std::size_t visitors = 0;
  };
  using Which = std::function<bool(const PortalLink&)>;
  Kicked kick(const Which& which, const Error& why);
  /// Asks their bridges to use another tunnel: as drain(), for some. How many.
  std::size_t drain_some(const Which& which);
  /// A new configuration has it too: the settings it came with, and those in its home, from now on.
  void update(const config::Portal& settings);
  /// Planned replacement: bridges are asked to dial anew, each at some point of `spread`;
  /// visitors are served as long as they come here.
  void drain(Duration spread = Duration(0));
  /// Takes it back.
  void resume();
  /// A successor of this process serves the portal (or does not any more): drained tunnels close as soon as they are
  /// empty, whether or not another one is here.
  void set_moved(bool moved);

  const config::Portal& settings() const { return settings_; }
  /// "TAG DOMAIN": what processes call it to each other. The same tag and domain is the same portal.
  std::string name() const { return settings_.tag + ' ' + settings_.domain; }
  const std::vector<std::unique_ptr<PortalLink>>& links() const { return links_; }
  reverse::Pool& pool() const { return pool_; }
  /// Tunnels that can take visitors, and the streams on all of them.
  std::uint16_t live() const;
  std::uint32_t streams() const;
  /// A tunnel takes visitors as a matter of course, not as the last one before it closes.
  bool serving() const;
  /// The pool changed: tunnels came, went, or take visitors again. Set by the broker.
  std::function<void(Portal&)> on_change;

 private:
  friend class PortalLink;
  PortalLink* pick(const Target& target, std::uint64_t visitor_key, const VisitorAddress& visitor) const;
  bool crowds(const VisitorAddress& visitor) const;
  struct Opened {
    std::unique_ptr<relay::Side> side;  // null: no tunnel
    PortalLink* link = nullptr;
  };
  Opened open_on_link(const Target& target, std::uint64_t visitor_key, const VisitorAddress& address);
  void review();
  void review_soon() { home_.around.loop.defer(review_later_); }
  void link_over(PortalLink& link, const Error& why);
  reverse::PortalTunnelSettings tunnel_settings(const TunnelOffer& offer) const;
  tunnel::TunnelLimits tunnel_limits() const;
  std::size_t max_streams() const;
  proxy_protocol::Version header_version() const { return proxy_protocol::Version{settings_.proxy_protocol}; }

  config::Portal settings_;
  PortalHome& home_;
  StreamWatch::Lines lines_{};       // outlives links_, as pool_ does
  StreamWatch::Lines left_lines_{};  // by reason, for an authentic bridge may dial without end
  StreamWatch::Lines lost_lines_{};
  Sparingly opened_lines_;
  mutable reverse::Pool pool_;                            // outlives links_: their streams report to it
  std::vector<std::unique_ptr<PortalLink>> links_;        // in order of arrival
  std::map<std::uint64_t, reverse::Dialect> remembered_;  // by bridge key; bounded
  net::Deferred review_later_;
  bool draining_ = false;
  bool moved_ = false;
};

}  // namespace ebb::broker
