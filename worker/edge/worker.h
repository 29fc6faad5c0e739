// The worker as a process: what the supervisor tells it, and how it ends. What it carries is in edge.h.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/net/lag.h"
#include "common/net/poll.h"
#include "ipc/child.h"
#include "worker/edge/edge.h"

namespace ebb::edge {

class Worker final : private ipc::ChildHandler {
 public:
  Worker(Fd ctl, Fd adoption);
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() override;

  /// Until drained or broken; returns the exit status.
  int run();

 private:
  void on_log(ipc::LogKind which, Fd file) override;
  Result<> on_shm(ipc::ShmKind kind, Fd memfd, std::uint64_t bytes) override;
  Result<> on_config(std::uint64_t gen, std::string_view snapshot) override;
  void on_slot(const ipc::SlotGrant& grant, Fd socket) override;
  void on_slot_revoked(std::uint32_t slot) override;
  void on_link(const ipc::LinkAdd& link, Fd end) override;
  void on_broker_state(const ipc::BrokerState& state) override;
  void on_start() override;
  void on_pause() override;
  void on_drain(const ipc::DrainOrder& order) override;
  std::string on_query(std::string_view request) override;
  ipc::Vitals on_ping() override;
  void on_orphaned(Duration since) override;
  void on_adopter_refused(const Error& why) override;
  ipc::Adoptable adoptable() override;
  void on_adopted() override;
  void on_broken(const Error& why) override;

  void watch_ctl();
  void report_fault(std::uint64_t broker_gen);
  void check_drained();
  void leave(int status);

  net::UvLoop loop_;
  Fd error_log_;  // until the configuration says how to write them
  Fd access_log_;
  std::optional<ipc::ReplayTable> replays_;
  std::unique_ptr<Edge> edge_;
  ipc::ChildControl control_;
  std::unique_ptr<net::Poll> ctl_poll_;
  int ctl_polled_ = -1;
  std::unique_ptr<net::Poll> adoption_poll_;  // while a supervisor is wanted
  std::unique_ptr<net::Poll> signal_poll_;
  net::Timer ctl_deadline_;
  net::LagMeter lag_;
  net::Timer drain_check_;
  std::optional<TimePoint> cut_at_;  // set: draining
  int exit_status_ = 0;
};

}  // namespace ebb::edge
