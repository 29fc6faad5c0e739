// What the configurations in use turn into: portals, bridges and the ways out, kept over reloads where they stay the
// same. Knows no process and no link.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/reverse/control.h"
#include "worker/bridge/bridge.h"
#include "worker/broker/generation_tables.h"
#include "worker/broker/portal.h"
#include "worker/broker/visitors.h"
#include "worker/flow/doors.h"
#include "worker/flow/roster.h"
#include "worker/outbound/outbounds.h"

namespace ebb::broker {

class Plant {
 public:
  using Gen = GenerationTables::Gen;
  /// Portals that do not exist any more: whoever waits for them has to be told.
  using Removed = std::vector<PortalKey>;

  /// `pool_changed`: see Portal::on_change.
  Plant(GenerationTables tables, outbound::Surroundings around, relay::Relays& relays, Visitors& visitors,
        std::function<void(PortalKey, Portal&)> pool_changed);
  Plant(const Plant&) = delete;
  Plant& operator=(const Plant&) = delete;
  ~Plant();

  /// Whether there may be one more stream of a bridge.
  void set_room(std::function<bool()> room) { bridge_home_.has_room = std::move(room); }

  GenerationTables& tables() { return tables_; }
  const GenerationTables& tables() const { return tables_; }
  const config::Config& config() const { return tables_.current().config; }
  /// Null: no configuration names it any more.
  Portal* portal(PortalKey key) const;
  /// In file order; portals that are only prepared come last.
  std::vector<const Portal*> portals() const;
  std::vector<const bridge::Bridge*> bridges() const;

  /// All flows of this process, and the UDP addresses it serves: those of every inbound, since it outlives reloads.
  flow::Flows& flows() { return flows_; }
  const flow::Flows& flows() const { return flows_; }
  flow::Doors& doors() { return doors_; }
  const flow::Doors& doors() const { return doors_; }
  /// Flows of users who said who they are.
  flow::Roster<Person>& flow_visitors() { return flow_visitors_; }
  /// A pool has changed: an address may be worth reading now.
  void review_doors();

  /// Bridges dial, now and when a reload brings new ones; not while it drains.
  /// `successor`: another broker may serve what this one has no tunnel for yet; its UDP addresses are left to it.
  void start(bool successor = false);
  /// Planned replacement: see Portal::drain(), Bridge::drain().
  void drain(Duration spread = Duration(0));
  /// Takes it back.
  void resume();
  /// What a successor serves, as live() of it says: see Portal::set_moved(). Absolute: who is not in it has not moved.
  /// Means nothing while this process does not drain.
  void set_moved(std::set<std::string> portals);
  /// Portals that serve here, by name().
  std::vector<std::string> live() const;
  /// Portals that could serve here and have no successor.
  std::vector<const Portal*> unmoved() const;
  /// No portal and no bridge has a tunnel in any state, and none is being dialled.
  bool without_tunnels() const;

  /// What of `config` only a new process can follow, against what this one was started with; empty: nothing. The rest
  /// can be prepared all the same.
  std::string needs_restart(const config::Config& config) const;
  /// How many tunnels, and visitors on them or with a name of their own, an order concerns.
  using Kicked = Portal::Kicked;
  /// Ends a tunnel of any portal or bridge and resets whom it carries.
  Kicked kick(TunnelId tunnel);
  /// Ends everything of a user, named by e-mail or UUID: see GenerationTables::people().
  Kicked kick(std::string_view user);
  /// Asks the other end of a tunnel to use another one, which a stock portal cannot be asked. How many did it concern.
  std::size_t drain(TunnelId tunnel);
  std::size_t drain(std::string_view user);

  /// Errors: config.
  Result<> prepare(Gen gen, config::Config config);
  /// nullopt: it is not the prepared generation.
  std::optional<Removed> commit(Gen gen);
  std::optional<Removed> abort(Gen gen);

 private:
  void follow_current();
  Removed reconcile();
  PortalHome::Account account_of(const Person& person) const;
  void add_portal(PortalKey key, const config::Portal& settings);
  Kicked kick_tunnels(const Portal::Which& which, const Error& why);
  std::size_t drain_tunnels(const Portal::Which& which);
  bool bridges_may_enter(const Portal& portal) const;
  std::optional<flow::Doors::Inbound> inbound_at(const Endpoint& local) const;
  std::unique_ptr<flow::DatagramEnd> open_flow(const flow::Doors::Inbound& door, const VisitorAddress& client);
  bool may_read(const config::Inbound& inbound, const Target& target) const;

  GenerationTables tables_;
  const std::uint32_t started_loops_;  // broker.loops; 0 = auto
  relay::Relays& relays_;
  Visitors& visitors_;
  flow::Roster<Person> flow_visitors_;
  flow::Flows flows_;  // before tunnels, whose streams its ends are
  std::function<void(PortalKey, Portal&)> pool_changed_;
  std::unique_ptr<outbound::Outbounds> outbounds_;  // of the committed configuration
  PortalHome portal_home_;
  bridge::Home bridge_home_;
  std::map<PortalKey, std::unique_ptr<Portal>> portals_;
  std::map<BridgeKey, std::unique_ptr<bridge::Bridge>> bridges_;
  std::vector<std::unique_ptr<Portal>> old_portals_;  // ended; destroyed at the end of the wake-up
  std::vector<std::unique_ptr<bridge::Bridge>> old_bridges_;
  net::Deferred sweep_;
  flow::Doors doors_;
  net::Timer doors_wait_;
  TimePoint read_from_ = TimePoint::max();  // addresses whose portal has no tunnel yet are read from then on
  TimePoint next_refusal_{};                // flows without a tunnel: one line a second
  std::set<std::string> moved_;             // by name()
  bool started_ = false;
  bool draining_ = false;
};

}  // namespace ebb::broker
