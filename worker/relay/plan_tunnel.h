// A tunnel that follows one of the plans of common/reverse: what a portal's and a bridge's tunnels have in common.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "worker/relay/tunnel.h"

namespace ebb::relay {

/// The last number given to a tunnel of this process, whatever its kind: an administrator names tunnels by them. A
/// process that has contemporaries of its kind begins where none of theirs will get.
inline std::uint64_t& last_tunnel_number() {
  static std::uint64_t last = 0;
  return last;
}

/// `Plan` is reverse::PortalTunnel or reverse::BridgeTunnel.
template <class Plan>
class PlanTunnel : public Tunnel {
 public:
  ~PlanTunnel() override { die(Error{Errc::closed, "the process ends", {}}); }

  TunnelId id() const { return id_; }
  const std::string& peer() const { return peer_; }
  TimePoint since() const { return since_; }
  Plan& plan() { return plan_; }
  const Plan& plan() const { return plan_; }
  bool dead() const { return Tunnel::dead(); }
  void abort(const Error& why) { die(why); }
  /// The same on an order of the administrator.
  void kick(const Error& why) {
    if (dead()) return;
    kicked_ = true;
    die(why);
  }
  bool kicked() const { return kicked_; }
  bool packet_addresses() const override { return plan_.packet_addresses(); }
  /// After calling the plan from outside: sends what it wants sent.
  void poke() { pump(); }

 protected:
  PlanTunnel(net::Loop& loop, BlockPool& blocks, layers::Stack stack, TunnelLimits limits, std::string peer, Plan plan)
      : Tunnel(loop, blocks, std::move(stack), limits),
        plan_(std::move(plan)),
        id_{++last_tunnel_number()},
        peer_(std::move(peer)),
        since_(loop.now()) {}

  /// The plan was fed, ticked, or lost a stream: whoever keeps the pool may have to look at it again.
  virtual void on_plan_moved() = 0;

  Decoded<> feed(ConstSpan plain) override {
    auto fed = plan_.feed(plain, loop_.now(), *this);
    moved();
    return fed;
  }
  Bytes take_output() override { return plan_.take_output(); }
  void tick() override {
    plan_.tick(loop_.now());
    moved();
  }
  TimePoint next_deadline() const override { return plan_.next_deadline(); }
  void forget(StreamId stream) override {
    if constexpr (requires { plan_.close(stream, loop_.now()); }) {
      plan_.close(stream, loop_.now());
    } else {
      plan_.close(stream);
    }
    moved();
  }
  void set_user(StreamId stream, void* user) override { plan_.set_user(stream, user); }
  void* user_of(StreamId stream) const override { return plan_.session().user(stream); }
  reverse::HalfClose half_close(StreamId stream) const override { return plan_.half_close(stream); }
  bool fin_sent(StreamId stream) override {
    bool over = false;
    if constexpr (requires { plan_.fin_sent(stream, loop_.now()); }) {
      over = plan_.fin_sent(stream, loop_.now());
    } else {
      over = plan_.fin_sent(stream);
    }
    moved();
    return over;
  }
  void hold(StreamId stream, bool end_sent) override {
    plan_.hold(stream, end_sent);
    moved();
  }
  void abort_streams() override { plan_.abort_streams(*this); }
  std::size_t max_data() const override { return plan_.send_limits().max_data; }
  std::size_t max_datagram() const override { return plan_.send_limits().max_datagram; }
  void on_reading_changed(bool reading) override {
    plan_.set_reading(reading, loop_.now());
    moved();
  }
  bool finished() const override { return plan_.state() == Plan::State::dead; }
  reverse::TunnelEnd end() const override { return plan_.end(); }

  Plan plan_;

 private:
  void moved() {
    if (!dead()) on_plan_moved();  // not any more once a destructor has begun
  }

  TunnelId id_;
  std::string peer_;
  TimePoint since_;
  bool kicked_ = false;
};

}  // namespace ebb::relay
