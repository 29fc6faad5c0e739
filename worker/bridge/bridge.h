// One bridge of the configuration: dials its portal, keeps as many tunnels as the load wants, and sends the streams
// that come out of them to their origins.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/config/config.h"
#include "common/net/dial.h"
#include "common/reverse/bridge_plan.h"
#include "common/reverse/bridge_tunnel.h"
#include "common/routing/router.h"
#include "worker/outbound/outbounds.h"
#include "worker/relay/tunnel.h"

namespace ebb::bridge {

class Bridge;

/// What a bridge needs from the process it lives in.
struct Home {
  outbound::Surroundings around;
  const config::Config& config;
  const routing::Router& router;
  outbound::Outbounds& outbounds;
  relay::Relays& relays;
  reverse::Hello hello;
  /// A stream that routing sends to a portal of this very process; null: refused.
  std::function<std::unique_ptr<relay::Side>(std::size_t portal, const Target& target)> open_in_portal;
};

/// A tunnel that is up.
class BridgeLink final : public relay::Tunnel {
 public:
  BridgeLink(Bridge& bridge, TunnelId id, std::unique_ptr<relay::Codec> codec, std::string peer);
  ~BridgeLink() override;
  void start(std::unique_ptr<net::TcpStream> stream);

  TunnelId id() const { return id_; }
  const std::string& peer() const { return peer_; }
  TimePoint since() const { return since_; }
  const reverse::BridgeTunnel& plan() const { return plan_; }
  void abort(const Error& why) { die(why); }

 private:
  Decoded<> feed(ConstSpan plain) override;
  Bytes take_output() override { return plan_.take_output(); }
  void tick() override;
  TimePoint next_deadline() const override { return plan_.next_deadline(); }
  void forget(StreamId stream) override;
  void set_user(StreamId stream, void* user) override { plan_.set_user(stream, user); }
  void abort_streams() override { plan_.abort_streams(*this); }
  std::size_t max_data() const override { return plan_.send_limits().max_data; }
  void on_reading_changed(bool reading) override { plan_.set_reading(reading, loop_.now()); }
  bool finished() const override { return plan_.state() == reverse::BridgeTunnel::State::dead; }
  void on_tunnel_over(const Error& why) override;
  void on_open(StreamId stream, const Target& target, ConstSpan trailing) override;
  void refuse(StreamId stream);

  Bridge& bridge_;
  TunnelId id_;
  std::string peer_;
  TimePoint since_;
  reverse::BridgeTunnel plan_;
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
  /// Ends everything.
  void abort(const Error& why);
  const config::Bridge& settings() const { return settings_; }
  const std::vector<std::unique_ptr<BridgeLink>>& links() const { return links_; }
  std::size_t dialling() const { return dials_.size(); }
  const std::string& last_failure() const { return last_failure_; }

 private:
  friend class BridgeLink;
  struct Dialling {
    std::unique_ptr<relay::Codec> codec;
    std::string peer;
    std::unique_ptr<net::Dial> dial;
  };

  void review();
  void review_soon() { home_.around.loop.defer(review_later_); }
  void dial();
  void on_dialled(Dialling& which, Result<std::unique_ptr<net::TcpStream>> stream);
  void dial_failed(const Error& why);
  void link_over(BridgeLink& link, const Error& why);
  reverse::BridgeLoad load() const;

  const config::Bridge& settings_;
  Home& home_;
  reverse::BridgePlan plan_;
  std::vector<std::unique_ptr<BridgeLink>> links_;
  std::vector<std::unique_ptr<Dialling>> dials_;
  std::vector<std::unique_ptr<Dialling>> done_dials_;  // ended in their own callback
  net::Timer timer_;
  net::Deferred review_later_;
  std::string last_failure_;
  bool dialling_allowed_ = false;
};

}  // namespace ebb::bridge
