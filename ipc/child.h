// The child's end of ctl: collects what the supervisor sends before START, answers PING and QUERY, turns DRAIN, QUIT
// and the end of the supervisor into one callback. Knows no loop: watch fd() and signal_fd(), level- or edge-triggered.
// The order of messages is written down in supervisor/README.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "ipc/channel.h"
#include "ipc/message.h"

namespace ebb::ipc {

/// Leave: close slot copies, finish or cut what is carried, then drained() and exit with 0. Never taken back; a second
/// order may come (TERM after QUIT): the earlier deadline wins.
struct DrainOrder {
  enum class Why : std::uint8_t { ordered, signalled, supervisor_gone };
  Why why = Why::ordered;
  std::optional<std::chrono::milliseconds>
      deadline;                         // from now; what is left then is cut. Absent: hardStopAfter counts
  std::chrono::milliseconds jitter{0};  // spread closing of idle connections over this
};

/// A child's figures for the watchdog.
struct Vitals {
  std::uint32_t loop_lag_us = 0;
  std::uint32_t connections = 0;
  std::uint32_t fds_free = 0;
};

/// What came of PREPARE. The tables are usable in either case.
struct UpdateVerdict {
  std::string needs_restart;  // what only a new process can follow, in words; empty: nothing
};

/// What a child does about the messages of its supervisor. Callbacks come from ChildControl::on_readable() and
/// on_signal(); they may call ChildControl back, but must not destroy it. Errors returned end the child (on_broken).
class ChildHandler {
 public:
  virtual ~ChildHandler() = default;

  // Set-up, in this order: log files, shared memory, configuration; then slots and links in any order and at any time.
  virtual void on_log(LogKind which, Fd file) = 0;
  virtual Result<> on_shm(ShmKind kind, Fd memfd, std::uint64_t bytes) = 0;
  /// The snapshot (canonical JSON), checked against its length and hash. Valid during the call. Call ready() when able
  /// to serve, from here or later.
  virtual Result<> on_config(std::uint64_t gen, std::string_view snapshot) = 0;
  /// A listening socket. A worker polls it from on_start() on, never shutdown()s or listen()s it; the broker only keeps
  /// it.
  virtual void on_slot(const SlotGrant& grant, Fd socket) = 0;
  /// Close every copy of this slot.
  virtual void on_slot_revoked(std::uint32_t slot) = 0;
  /// One end of a handoff link. To a worker: LinkAdd says which broker; to the broker: which worker.
  virtual void on_link(const LinkAdd& link, Fd end) = 0;
  /// Workers: a broker's state changed. The broker: its own; draining = drain tunnels and keep serving, active takes it
  /// back.
  virtual void on_broker_state(const BrokerState&) {}

  // CONFIG_UPDATE, brokers only: a worker's generation is its configuration (spec/processes.md 9.1).
  /// Build the tables of `gen` beside the old ones: what is new can be used from here on, nothing is taken away. A
  /// second PREPARE replaces the first. Errors: it cannot be used, and nothing was prepared. The snapshot is checked
  /// and valid during the call.
  virtual Result<UpdateVerdict> on_update_prepare(std::uint64_t gen, std::string_view snapshot);
  /// From here on `gen` alone decides: what it lacks ends. Of another generation than the prepared one: nothing.
  virtual void on_update_commit(std::uint64_t) {}
  /// Drop what PREPARE has built.
  virtual void on_update_abort(std::uint64_t) {}

  /// Begin, or after on_pause() resume, polling slots.
  virtual void on_start() = 0;
  /// Stop polling slots, keep everything else.
  virtual void on_pause() = 0;
  virtual void on_drain(const DrainOrder& order) = 0;

  /// Figures for the admin socket: JSON in, JSON out.
  virtual std::string on_query(std::string_view request) = 0;
  virtual Vitals on_ping() = 0;

  /// The child cannot go on (bad snapshot, broken ctl): log `why` and exit with 1.
  virtual void on_broken(const Error& why) = 0;
};

class ChildControl {
 public:
  /// `ctl` is the link to the supervisor (fd 3), `self` worker or broker. Sends HELLO. Takes the signals of section 10:
  /// QUIT by signal_fd() (drain), TERM at its default (exit now), everything else the supervisor blocked stays blocked.
  ChildControl(Fd ctl, Role self, ChildHandler& handler);

  int fd() const { return channel_.fd(); }
  int signal_fd() const { return signals_.get(); }
  /// Handles everything that waits. After the supervisor is gone fd() is -1: stop watching (watch for that after each
  /// call).
  void on_readable();
  void on_writable();
  bool wants_write() const { return channel_.wants_write(); }
  bool ended() const { return ended_; }
  void on_signal();

  /// READY: once, after on_config().
  void ready();
  /// DRAINED: exit follows.
  void drained(std::uint32_t left_connections, std::uint32_t left_unacked);

  /// 0 until HELLO arrived. Of a worker: its worker generation; of the broker: its broker generation.
  std::uint64_t gen() const { return gen_; }

 private:
  void on_message(Message& message);
  Result<> handle(Message& message);
  void broken(Error why);
  Result<> config_arrived(Message& message);
  Result<> update_arrived(Message& message);

  Channel channel_;
  ChildHandler& handler_;
  Role self_;
  Fd signals_;
  std::uint64_t gen_ = 0;
  std::string query_;  // parts of a QUERY so far
  bool broken_ = false;
  bool ended_ = false;
};

}  // namespace ebb::ipc
