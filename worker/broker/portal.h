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
#include "common/reverse/picker.h"
#include "common/reverse/portal_plan.h"
#include "common/reverse/portal_tunnel.h"
#include "worker/outbound/outbounds.h"
#include "worker/relay/tunnel.h"

namespace ebb::broker {

class Portal;

/// What a portal needs from the process it lives in.
struct PortalHome {
  outbound::Surroundings around;
  const config::Settings& settings;
  relay::Relays& relays;
  reverse::Hello hello;
};

/// An accepted tunnel, authenticated by a worker.
struct TunnelOffer {
  std::unique_ptr<net::Stream> stream;
  std::unique_ptr<relay::Codec> codec;  // null: plain
  Bytes unread;
  std::string peer;
  std::uint32_t user = 0xffffffff;  // index at its inbound: whose dialect to remember
  std::uint16_t inbound = 0;
};

class PortalLink final : public relay::Tunnel {
 public:
  PortalLink(Portal& portal, TunnelId id, TunnelOffer& offer);
  ~PortalLink() override;
  void start(TunnelOffer offer);

  TunnelId id() const { return id_; }
  const std::string& peer() const { return peer_; }
  std::uint64_t bridge_key() const { return bridge_key_; }
  TimePoint since() const { return since_; }
  reverse::PortalTunnel& plan() { return plan_; }
  const reverse::PortalTunnel& plan() const { return plan_; }
  bool dead() const { return Tunnel::dead(); }
  /// A stream to `target`: New goes out at once. Null when this tunnel cannot carry it.
  std::unique_ptr<relay::MuxSide> open(const Target& target);
  void abort(const Error& why) { die(why); }
  void poke() { pump(); }

 private:
  Decoded<> feed(ConstSpan plain) override;
  Bytes take_output() override { return plan_.take_output(); }
  void tick() override;
  TimePoint next_deadline() const override { return plan_.next_deadline(); }
  void forget(StreamId stream) override;
  void set_user(StreamId stream, void* user) override { plan_.set_user(stream, user); }
  void abort_streams() override { plan_.abort_streams(*this); }
  std::size_t max_data() const override { return plan_.send_limits().max_data; }
  void on_reading_changed(bool reading) override;
  bool finished() const override { return plan_.state() == reverse::PortalTunnel::State::dead; }
  void on_tunnel_over(const Error& why) override;
  void on_open(StreamId, const Target&, ConstSpan) override {}  // bridges open nothing

  Portal& portal_;
  TunnelId id_;
  std::string peer_;
  std::uint64_t bridge_key_;
  TimePoint since_;
  reverse::PortalTunnel plan_;
};

class Portal {
 public:
  Portal(const config::Portal& settings, PortalHome& home);
  Portal(const Portal&) = delete;
  Portal& operator=(const Portal&) = delete;
  ~Portal();

  /// A bridge registers.
  void add_tunnel(TunnelOffer offer);
  /// Whether a visitor could be put onto a tunnel now.
  bool has_room() const;
  /// Puts `visitor` on a tunnel. False: no tunnel takes it any more (the visitor is left as it was).
  bool serve(std::unique_ptr<relay::Side>& visitor, const Target& target, const config::PolicyLevel& level,
             std::uint64_t visitor_key);
  /// Only the origin side, for a stream of a bridge in this same process. Null: no tunnel.
  std::unique_ptr<relay::Side> open(const Target& target, std::uint64_t visitor_key);
  void abort(const Error& why);

  const config::Portal& settings() const { return settings_; }
  const std::vector<std::unique_ptr<PortalLink>>& links() const { return links_; }
  /// Tunnels that can take visitors, and the streams on all of them.
  std::uint16_t live() const;
  std::uint32_t streams() const;
  /// The pool changed: tunnels came, went, or take visitors again. Set by the broker.
  std::function<void(Portal&)> on_change;

 private:
  friend class PortalLink;
  PortalLink* pick(std::uint64_t visitor_key) const;
  void review();
  void review_soon() { home_.around.loop.defer(review_later_); }
  void link_over(PortalLink& link, const Error& why);
  reverse::PortalTunnelSettings tunnel_settings(const TunnelOffer& offer) const;

  const config::Portal& settings_;
  PortalHome& home_;
  std::vector<std::unique_ptr<PortalLink>> links_;  // in order of arrival
  mutable reverse::Picker picker_;
  std::map<std::uint64_t, reverse::Dialect> remembered_;  // by bridge key; bounded
  net::Deferred review_later_;
};

}  // namespace ebb::broker
