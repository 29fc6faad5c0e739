// A tunnel whose owner knows what kind of engine it has: what a portal's and a bridge's tunnels have in common.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "worker/tunnel/tunnel.h"

namespace ebb::tunnel {

/// `Kind` is reverse::PortalTunnel or reverse::BridgeTunnel.
template <class Kind>
class Link : protected TunnelOwner {
 public:
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  Tunnel& tunnel() { return tunnel_; }
  const Tunnel& tunnel() const { return tunnel_; }
  Kind& plan() { return plan_; }
  const Kind& plan() const { return plan_; }
  TunnelId id() const { return tunnel_.id(); }
  const std::string& peer() const { return tunnel_.peer(); }
  TimePoint since() const { return tunnel_.since(); }
  bool dead() const { return tunnel_.dead(); }
  void abort(const Error& why) { tunnel_.die(why); }
  void kick(const Error& why) { tunnel_.kick(why); }
  bool kicked() const { return tunnel_.kicked(); }
  /// After calling the plan from outside: sends what it wants sent.
  void poke() { tunnel_.pump(); }

 protected:
  Link(net::Loop& loop, relay::BlockPool& blocks, layers::Stack stack, TunnelLimits limits, std::string peer,
       std::unique_ptr<Kind> engine)
      : loop_(loop),
        plan_(*engine),
        tunnel_(loop, blocks, std::move(stack), limits, std::move(peer), std::move(engine), *this) {}
  ~Link() = default;

  net::Loop& loop_;
  Kind& plan_;
  Tunnel tunnel_;  // the last one: it goes first, and still calls us
};

}  // namespace ebb::tunnel
