// The child's end of ctl: collects what the supervisor sends before START, answers PING and QUERY, turns DRAIN, QUIT
// and the end of the supervisor into one callback; survives that end where it is asked to, and lets the next supervisor
// in (adoption.cc). Knows no loop: watch fd(), signal_fd() and adoption_fd(), level- or edge-triggered.
// The order of messages is written down in supervisor/README.md.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/base/time.h"
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
  Duration loop_lag{};  // the longest since the last question
  std::uint32_t connections = 0;
  std::uint32_t fds_free = 0;
};

/// What came of PREPARE. The tables are usable in either case.
struct UpdateVerdict {
  std::string needs_restart;  // what only a new process can follow, in words; empty: nothing
};

/// A listening socket as a child holds it. The descriptor is borrowed.
struct HeldSlot {
  AdoptSlot slot;
  int fd = -1;
};

/// What an adopting supervisor is told of a child, beside what ChildControl keeps itself: shared memory and snapshot.
struct Adoptable {
  std::uint32_t connections = 0;
  std::vector<HeldSlot> slots;  // at most kMaxParts * kMaxSlots are told
};

/// What a child does about the messages of its supervisor. Callbacks come from ChildControl::on_readable(),
/// on_signal(), on_adoption_readable() and on_deadline(); they may call ChildControl back, but must not destroy it.
/// Errors returned end the child (on_broken).
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

  // CONFIG_UPDATE, brokers only: a worker's generation is its configuration.
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

  // Adoption (PROTOCOL.md): only of children that got COMMIT and have an adoption socket.
  /// The supervisor has been gone for so long; called at once and then every minute. Nobody restarts or reloads now:
  /// everything else goes on as it was.
  virtual void on_orphaned(Duration) {}
  /// Who connected to the adoption socket was no supervisor; the connection is closed.
  virtual void on_adopter_refused(const Error&) {}
  virtual Adoptable adoptable() { return {}; }
  /// There is a supervisor again, with everything that implies.
  virtual void on_adopted() {}

  /// The child cannot go on (bad snapshot, broken ctl): log `why` and exit with 1.
  virtual void on_broken(const Error& why) = 0;
};

/// A child's end of its link to the supervisor, and of the one to the next when the first has died.
///
/// What to watch changes with every call: ask fd(), adoption_fd(), wants_write() and next_deadline() again after each.
/// A descriptor that is no longer to be watched stays open until the next call, so the number that fd() gives never
/// means another one without having been -1 in between.
class ChildControl {
 public:
  static constexpr Duration kAdoptWithin = std::chrono::seconds(5);  // from the connection to its ADOPT
  static constexpr Duration kRemindEvery = std::chrono::minutes(1);

  /// `ctl` is the link to the supervisor (fd 3), `self` worker or broker. Sends HELLO. Takes the signals of section 10:
  /// QUIT by signal_fd() (drain), TERM at its default (exit now), everything else the supervisor blocked stays blocked.
  /// `adoption` is a listening unix SEQPACKET socket (fd 4); without one, or with something else, the end of the
  /// supervisor always means QUIT. `now` is the clock of the deadlines.
  ChildControl(
      Fd ctl, Role self, ChildHandler& handler, Fd adoption = {},
      std::function<TimePoint()> now = [] { return Clock::now(); });

  /// The link to the supervisor, or to who may become it; -1: there is none.
  int fd() const { return channel_ ? channel_->fd() : -1; }
  int signal_fd() const { return signals_.get(); }
  /// Handles everything that waits.
  void on_readable();
  void on_writable();
  bool wants_write() const { return channel_ && channel_->wants_write(); }
  void on_signal();

  /// The adoption socket while somebody is wanted there; else -1.
  int adoption_fd() const;
  void on_adoption_readable();
  std::optional<TimePoint> next_deadline() const;
  void on_deadline();

  /// The supervisor is gone and nobody will come in its place: we leave.
  bool ended() const { return state_ == State::ended; }
  /// The supervisor is gone and the next one has not come yet.
  bool orphaned() const { return state_ == State::orphaned || state_ == State::greeted; }

  /// READY: once, after on_config().
  void ready();
  /// DRAINED: exit follows.
  void drained(std::uint32_t left_connections, std::uint32_t left_unacked);
  /// STATS with one record. Without a supervisor it is kept for the next one.
  void report(const Stat& stat);

  /// 0 until HELLO arrived. Of a worker: its worker generation; of the broker: its broker generation.
  std::uint64_t gen() const { return gen_; }

 private:
  enum class State : std::uint8_t {
    attached,  // to a supervisor
    ended,     // and never again
    orphaned,  // the adoption socket is watched
    greeted,   // somebody connected there and has to say ADOPT
  };
  struct Snapshot {
    std::uint64_t gen = 0;
    Fd memfd;
    std::array<std::uint8_t, 32> sha256{};
  };
  void on_message(Message& message);
  Result<> handle(Message& message);
  void broken(const Error& why);
  Result<> config_arrived(Message& message);
  Result<> shm_arrived(Message& message);
  Result<> update_arrived(Message& message);
  void link_over(ReadEnd end);
  void refuse_adopter(std::string why);
  void adopted();
  bool send_adopt_state();

  std::unique_ptr<Channel> channel_;  // null: nobody is there
  std::unique_ptr<Channel> retired_;  // closed with the next call
  ChildHandler& handler_;
  Role self_;
  Fd adoption_;
  std::function<TimePoint()> now_;
  Fd signals_;
  State state_ = State::attached;
  std::uint64_t gen_ = 0;
  std::string query_;                         // parts of a QUERY so far
  std::map<ShmKind, Fd> memory_;              // for who adopts us
  std::optional<Snapshot> snapshot_;          // of the configuration that decides
  std::optional<Snapshot> prepared_;          // by CONFIG_UPDATE
  std::vector<Stat> unsent_;                  // reports for the next supervisor
  TimePoint orphaned_since_{}, remind_at_{};  // while orphaned
  TimePoint adopt_by_{};                      // while greeted
  std::optional<TimePoint> accept_again_at_;  // no descriptor was left
  bool committed_ = false;                    // the end of the supervisor is survived
  bool broken_ = false;
};

}  // namespace ebb::ipc
