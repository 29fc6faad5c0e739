// The broker's side of the handoff: offers of all workers, parked until a tunnel is there, taken at the last moment.
// No IO and no clock: links are Senders, time is an argument. Source: PROTOCOL.md, broker's side.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/fd.h"
#include "common/base/time.h"
#include "ipc/channel.h"
#include "ipc/message.h"

namespace ebb::ipc {

using LinkId = std::uint32_t;     // one worker's link, unique in this broker
using PortalKey = std::uint32_t;  // a portal of this broker, whatever number a worker's generation gives it

/// Where an offer goes now.
struct Choice {
  enum class Kind : std::uint8_t { take, park, refuse };
  Kind kind = Kind::park;
  RefuseReason reason = RefuseReason::no_portal;  // of refuse
  std::uint64_t ticket = 0;                       // of take: comes back in own() or release()

  static Choice take(std::uint64_t ticket) { return {Kind::take, {}, ticket}; }
  static Choice park() { return {}; }
  static Choice refuse(RefuseReason reason) { return {Kind::refuse, reason, 0}; }
};

/// A connection this broker owns: TAKE is in the kernel's queue, or the worker is dead.
struct OwnedOffer {
  LinkId link = 0;
  PortalKey portal = 0;
  OfferRecord record;
  Fd fd;
  Bytes blob;  // TLVs of state_blob.h
  std::uint64_t ticket = 0;
  Duration waited{};  // since the offer came: the histogram reverse_wait_seconds
};

/// What the broker decides. Of the intake these may call nothing but set_tunnels().
class OfferHost {
 public:
  virtual ~OfferHost() = default;
  /// The portal an offer means (record.portal is a number of the worker's generation). nullopt: REFUSE(NO_PORTAL).
  virtual std::optional<PortalKey> portal_of(LinkId link, const OfferRecord& record) = 0;
  /// Called when the offer comes and again when something changed. A visitor without a tunnel: park(). A tunnel is
  /// never parked: take() or refuse(). Must not touch the fd. A reservation made for take() is settled by own() or
  /// release().
  virtual Choice choose(PortalKey portal, const OfferRecord& record, ConstSpan blob) = 0;
  /// TAKE could not be sent now; choose() will be asked again.
  virtual void release(std::uint64_t ticket) = 0;
  /// The connection is this broker's.
  virtual void own(OwnedOffer offer) = 0;
};

class OfferIntake {
 public:
  struct Options {
    Duration tunnel_wait = std::chrono::seconds(5);
    std::size_t max_parked_per_portal = 1024;
    std::size_t max_pending = 16384;  // over all portals and workers
    std::size_t max_blob_bytes = 64 * 1024 * 1024;
    std::uint32_t window = kDefaultCredits;
    Duration tunnels_pace = std::chrono::milliseconds(100);  // TUNNELS at most 10/s per link
    Duration retry = std::chrono::milliseconds(5);           // after a link without room
  };
  struct Counts {
    std::uint64_t taken = 0;
    std::uint64_t refused[6] = {};  // by RefuseReason
    std::uint64_t recalled = 0;
  };

  OfferIntake(Options options, OfferHost& host);

  // ---- links
  /// LINK_ADD. `link` must outlive on_link_eof() or on_link_fault(). `credits` as LINK_ADD told both sides.
  LinkId add_link(Sender& link, std::uint16_t worker_id, std::uint32_t credits = kDefaultCredits);
  /// OFFER and RECALL; other types are the caller's and pass. Anything but `none`: send_fault() on the channel, then
  /// on_link_fault(). Takes the fds out of the message.
  FaultCode on_message(LinkId link, Message& message, TimePoint now);
  /// The worker is dead and its messages are read: its offers stay, and this broker is their only owner.
  void on_link_eof(LinkId link, TimePoint now);
  /// We closed the link: the worker still holds its copies, so ours are closed untouched.
  void on_link_fault(LinkId link);
  void on_writable(LinkId link, TimePoint now);

  // ---- what the broker tells
  /// A tunnel of this portal has room: parked visitors are asked again, oldest first.
  void portal_up(PortalKey portal, TimePoint now);
  /// The number of live tunnels as this link's worker is to see it; `portal` is its generation's number. Sent at the
  /// pace.
  void set_tunnels(LinkId link, std::uint16_t portal, std::uint16_t live, std::uint32_t streams, TimePoint now);
  /// ctl DRAIN: GOAWAY on every link; whoever is or would be parked is refused with DRAINING.
  void go_away(std::uint64_t gen, TimePoint now);
  /// Un-ACKed offers allowed beyond the parked ones; 0 stops all workers (overload).
  void set_window(std::uint32_t window, TimePoint now);
  void set_tunnel_wait(Duration wait) { options_.tunnel_wait = wait; }

  std::optional<TimePoint> next_deadline() const;
  void on_deadline(TimePoint now);

  std::size_t pending() const { return pending_.size(); }
  std::size_t parked(PortalKey portal) const;
  const Counts& counts() const { return counts_; }

 private:
  using Order = std::uint64_t;  // of arrival
  struct Pending {
    LinkId link;
    PortalKey portal;
    OfferRecord record;
    Fd fd;
    Bytes blob;
    TimePoint came;
  };
  struct Counted {
    std::uint16_t live = 0;
    std::uint32_t streams = 0;
  };
  struct LinkState {
    Sender* sender = nullptr;  // null: the worker is dead
    std::uint16_t worker = 0;
    std::uint32_t told_window = 0;
    std::unordered_map<Hid, Order> offers;
    std::vector<Refusal> refusals;  // to be sent
    std::vector<Hid> recalled;      // to be sent
    std::set<Order> unsent;         // chosen, but TAKE found no room
    std::optional<TimePoint> retry_at;
    std::unordered_map<std::uint16_t, Counted> tunnels;
    std::set<std::uint16_t> dirty;  // portals whose count changed
    std::optional<TimePoint> tunnels_sent;
  };
  struct Chosen {
    Order order;
    std::uint64_t ticket;
  };

  FaultCode on_offer(LinkId id, LinkState& link, Message& message, TimePoint now);
  void on_recall(LinkState& link, const Message& message);
  /// Asks the host about each and acts on the answers. `stop_at_park`: the first park() ends it.
  void settle(const std::vector<Order>& orders, bool stop_at_park, TimePoint now);
  void take(std::vector<Chosen>& batch, TimePoint now);
  void refuse(Order order, RefuseReason reason);
  Pending remove(Order order);
  void flush(LinkState& link, TimePoint now);
  void flush_all(TimePoint now);
  static bool send_tunnels(LinkState& link);

  Options options_;
  OfferHost& host_;
  std::map<LinkId, LinkState> links_;
  std::map<Order, Pending> pending_;                          // oldest first
  std::unordered_map<PortalKey, std::set<Order>> by_portal_;  // visitors and tunnels
  std::size_t blob_bytes_ = 0;
  Order next_order_ = 1;
  LinkId next_link_ = 1;
  bool going_away_ = false;
  std::uint64_t goaway_gen_ = 0;
  Counts counts_;
};

}  // namespace ebb::ipc
