// The worker's side of the handoff: every connection it wants the broker to carry, until the broker has said TAKE.
// No IO and no clock: links are Senders, time is an argument. Source: PROTOCOL.md, worker's side.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/fd.h"
#include "common/base/time.h"
#include "ipc/channel.h"
#include "ipc/message.h"

namespace ebb::ipc {

/// States of an offer. WAITING of the spec is `held` without a broker that has credit.
enum class OfferState : std::uint8_t { held, offered, recalling };

/// How an offer left the book.
enum class OfferOutcome : std::uint8_t {
  taken,       // the broker owns the connection
  no_portal,   // refused: no tunnel came up in time
  overload,    // refused: the broker has too much parked
  bad_state,   // refused: the broker could not use the state blob
  gave_up,     // 30 s without any broker that could have it
  link_fault,  // the broker broke the protocol: nobody knows who owns it, so nobody gets it (at most once)
};

class OfferBook {
 public:
  struct Options {
    std::uint16_t generation = 0;  // of this worker's configuration
    std::uint16_t worker = 0;
    Duration give_up = std::chrono::seconds(30);
    Duration retry = std::chrono::milliseconds(5);  // after REFUSE(CTRUNC), doubling up to 128 times; after a full link
    std::size_t max_offers = 65536;
    std::size_t max_blob_bytes = 64 * 1024 * 1024;
  };
  /// Told once for every offer. `fd` is ours alone again (close it politely), except for taken and link_fault: empty.
  /// Called when the book is consistent; it may call add(), but must not destroy the book.
  using Ended = std::function<void(const OfferRecord& offer, OfferOutcome outcome, Fd fd)>;

  OfferBook(Options options, Ended ended);

  // ---- links: one per broker generation
  /// LINK_ADD. `link` must outlive on_link_eof() or on_link_fault() for this generation. False: there is one already.
  bool add_link(std::uint64_t broker_gen, Sender& link, std::uint32_t credits);
  /// BROKER_STATE. `dead` only stops new offers: what is out comes back with the link's end of file.
  void on_broker_state(std::uint64_t broker_gen, BrokerPhase phase);
  /// A message of the handoff link. Anything but `none`: send_fault() on the channel, then on_link_fault().
  FaultCode on_message(std::uint64_t broker_gen, const Message& message, TimePoint now);
  /// End of file with every queued message read (ReadEnd::eof): what is out is ours again.
  void on_link_eof(std::uint64_t broker_gen, TimePoint now);
  /// We closed the link because the broker broke the protocol.
  void on_link_fault(std::uint64_t broker_gen);
  /// The link took data again: call Channel::on_writable() first, flush() afterwards.
  void on_writable(std::uint64_t broker_gen);
  /// GOAWAY to every broker: drain the tunnels this worker relays.
  void send_goaway();

  // ---- connections
  /// Takes a connection over: hid, blob_len and pad of `offer` are filled in here. Neither read nor write the fd from
  /// now on. Nothing is sent before flush(). nullopt: the book is full or the record is not legal; `fd` and `blob` are
  /// untouched.
  std::optional<Hid> add(OfferRecord offer, Fd& fd, Bytes& blob);
  /// add() and flush(), but a connection without a blob goes out before anything else is done for it: until then it
  /// would die with this process.
  std::optional<Hid> offer(OfferRecord offer, Fd& fd, Bytes& blob, TimePoint now);
  /// Sends what can be sent, up to 32 offers a message. Call at the end of every wake-up.
  void flush(TimePoint now);

  /// The next time at which on_deadline() has something to do.
  std::optional<TimePoint> next_deadline() const;
  void on_deadline(TimePoint now) { flush(now); }

  /// False: stop polling the slots that may lead to a portal; the kernel's queue holds the clients.
  bool accepting() const;

  std::size_t size() const { return entries_.size(); }
  std::size_t held() const { return held_.size(); }
  std::size_t unacked() const { return entries_.size() - held_.size(); }
  std::size_t links() const { return links_.size(); }
  std::optional<OfferState> state(Hid hid) const;

 private:
  struct Entry {
    OfferRecord record;
    Fd fd;
    Bytes blob;
    OfferState state = OfferState::held;
    std::uint64_t link = 0;                  // broker generation, when not held
    std::optional<TimePoint> not_before;     // after a CTRUNC
    std::optional<TimePoint> nowhere_since;  // no broker could have it since then
    std::uint8_t ctruncs = 0;
  };
  struct LinkState {
    Sender* sender = nullptr;
    std::uint32_t window = 0;
    std::uint32_t unacked = 0;
    BrokerPhase phase = BrokerPhase::warming;
    bool goaway = false;                                    // final
    bool refused_draining = false;                          // as good as GOAWAY until BROKER_STATE says otherwise
    bool dead = false;                                      // sending failed; its end of file will come
    std::optional<TimePoint> retry_at;                      // the kernel had no room
    std::unordered_map<std::uint16_t, std::uint16_t> live;  // portal -> live tunnels
    std::vector<Hid> batch;

    bool leaving() const { return goaway || refused_draining; }
    bool parks() const {
      return !dead && !leaving() && (phase == BrokerPhase::warming || phase == BrokerPhase::active);
    }
    bool room() const { return !dead && !retry_at && phase != BrokerPhase::dead && unacked + batch.size() < window; }
    bool has(std::uint16_t portal) const;
  };
  using Links = std::map<std::uint64_t, LinkState, std::greater<>>;  // newest first

  Hid next_hid();
  Links::iterator choose(const OfferRecord& record);
  bool misplaced(const Entry& entry, Links::iterator better) const;
  void recall_misplaced();
  void place_held(TimePoint now);
  void send_batch(std::uint64_t gen, LinkState& link, TimePoint now, std::deque<Hid>& rest);
  void to_held(Hid hid, Entry& entry);
  void end(std::unordered_map<Hid, Entry>::iterator it, OfferOutcome outcome);
  void report();
  FaultCode on_refuse(std::uint64_t gen, LinkState& link, const Refusal& refusal, TimePoint now);

  Options options_;
  Ended ended_;
  Links links_;
  std::unordered_map<Hid, Entry> entries_;
  std::deque<Hid> held_;     // first come, first served
  std::size_t nowhere_ = 0;  // of those, the ones that no broker can have: they keep nobody waiting
  std::size_t blob_bytes_ = 0;
  std::uint32_t counter_ = 0;
  std::optional<TimePoint> held_due_;  // the next time at which something held must be looked at
  bool stale_ = false;                 // something changed since flush() last looked at held_
  struct Ending {
    OfferRecord record;
    OfferOutcome outcome;
    Fd fd;
  };
  std::vector<Ending> endings_;
};

}  // namespace ebb::ipc
