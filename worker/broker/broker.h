// Role broker: owns every tunnel and every connection handed to it. One loop here; nothing outside knows that.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/base/sparingly.h"
#include "common/crypto/random.h"
#include "common/net/lag.h"
#include "common/net/uv_loop.h"
#include "ipc/channel.h"
#include "ipc/child.h"
#include "ipc/offer_intake.h"
#include "worker/broker/plant.h"
#include "worker/broker/visitors.h"
#include "worker/relay/shortage.h"

namespace ebb::broker {

class Broker final : public ipc::ChildHandler, public ipc::OfferHost {
 public:
  explicit Broker(Fd ctl, Fd adoption = {});
  Broker(const Broker&) = delete;
  Broker& operator=(const Broker&) = delete;
  ~Broker() override;

  /// Until the supervisor ends us; returns the exit status.
  int run();

 private:
  struct Ctl;         // watches the ctl link
  struct Signals;     // and the signals
  struct WorkerLink;  // a handoff link

  // ipc::ChildHandler
  void on_log(ipc::LogKind which, Fd file) override;
  Result<> on_shm(ipc::ShmKind kind, Fd memfd, std::uint64_t bytes) override;
  Result<> on_config(std::uint64_t gen, std::string_view snapshot) override;
  Result<ipc::UpdateVerdict> on_update_prepare(std::uint64_t gen, std::string_view snapshot) override;
  void on_update_commit(std::uint64_t gen) override;
  void on_update_abort(std::uint64_t gen) override;
  void on_slot(const ipc::SlotGrant& grant, Fd socket) override;
  void on_slot_revoked(std::uint32_t slot) override;
  void on_link(const ipc::LinkAdd& link, Fd end) override;
  void on_broker_state(const ipc::BrokerState& state) override;
  void on_start() override;
  void on_pause() override {}  // brokers poll no slots
  void on_drain(const ipc::DrainOrder& order) override;
  std::string on_query(std::string_view request) override;
  ipc::Vitals on_ping() override;
  void on_orphaned(Duration since) override;
  void on_adopter_refused(const Error& why) override;
  ipc::Adoptable adoptable() override;
  void on_adopted() override;
  void on_broken(const Error& why) override;

  // ipc::OfferHost
  std::optional<ipc::PortalKey> portal_of(ipc::LinkId link, const ipc::OfferRecord& record) override;
  ipc::Choice choose(ipc::PortalKey portal, const ipc::OfferRecord& record, ConstSpan blob) override;
  void release(std::uint64_t ticket) override;
  void own(ipc::OwnedOffer offer) override;
  void own_datagrams(Portal& portal, const Target& target, const ipc::OfferRecord& record,
                     const std::optional<Person>& person, layers::Stack stack, std::unique_ptr<net::TcpStream> stream,
                     Bytes unread);

  void tell_refused(const Portal& portal, const ipc::OfferRecord& record);
  void read_link(WorkerLink& link);
  void drop_link(WorkerLink& link);
  void arm_intake();
  void learn_generation(WorkerLink& link, const ipc::Message& message);
  void announce(WorkerLink& link);
  void pool_changed(PortalKey key, Portal& portal);
  void use_limits();
  void portals_removed(const Plant::Removed& removed);
  void retire_tables();
  void check_drained();
  void begin_leaving();
  void stay();
  void check_empty();
  bool carries_nothing() const;
  void warn_of_unmoved();
  bool all_delivered() const;
  std::size_t fds_in_use() const;
  bool fds_to_spare() const;
  void leave(int status);
  std::string status() const;

  net::UvLoop loop_;
  relay::BlockPool blocks_;
  crypto::SystemRandom random_;
  Visitors visitors_;
  relay::Relays relays_;
  relay::Shortage shortage_{loop_, blocks_};
  Fd error_log_, access_log_;
  struct Escrowed {
    Fd socket;
    ipc::AdoptSlot slot;
  };
  std::map<std::uint32_t, Escrowed> escrow_;  // slots we never poll: their queues survive all who do
  std::unique_ptr<ipc::OfferIntake> intake_;
  std::map<PortalKey, std::size_t> reserved_;  // visitors chosen and not yet owned: their number is their ticket
  std::unique_ptr<Plant> plant_;
  std::vector<std::unique_ptr<WorkerLink>> links_;
  std::vector<std::unique_ptr<WorkerLink>> dead_links_;
  std::unique_ptr<Ctl> ctl_;
  std::unique_ptr<Signals> signals_;
  net::Timer intake_timer_;
  net::LagMeter lag_;
  net::Timer drain_timer_;
  net::Timer leave_timer_;
  net::Timer retire_timer_;
  net::Deferred sweep_links_;
  std::optional<TimePoint> drain_until_;
  bool draining_ = false;                   // ctl DRAIN: final
  std::optional<TimePoint> leaving_since_;  // a successor is there: this process ends once it carries nothing
  std::set<std::string> warned_of_;         // portals that have not moved in time, by name()
  bool over_ = false;                       // nothing is taken any more: what is still in the links comes back with us
  int exit_status_ = 0;
  Sparingly refused_;  // of visitors whom no tunnel takes any more
};

}  // namespace ebb::broker
