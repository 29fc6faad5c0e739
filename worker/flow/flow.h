// A flow: datagrams between two ends, for as long as some come. The datagram twin of relay/relay.h, without
// back-pressure: an end that cannot send drops, and is counted.
//
//   client end  --on_datagram-->  Flow  --send-->  origin end        and the other way round
//
// An end is a visitor of a UDP address (doors.h), a stream of a tunnel (mux_end.h), a socket of our own (origin_end.h),
// a connection of a protocol that carries datagrams (wire_end.h), or nothing (blackhole).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "common/base/address.h"
#include "common/base/bytes.h"
#include "common/base/json_writer.h"
#include "common/base/sparingly.h"
#include "common/net/loop.h"

namespace ebb::flow {

class Flow;

/// Flows are many, and each datagram may fail: what is said of that, once a second for each kind.
struct FlowLines {
  Sparingly no_socket;
  Sparingly no_address;
  Sparingly no_server;
};

class DatagramEnd {
 public:
  DatagramEnd() = default;
  DatagramEnd(const DatagramEnd&) = delete;
  DatagramEnd& operator=(const DatagramEnd&) = delete;
  virtual ~DatagramEnd() = default;

  /// A datagram of the other end, to go out here, now or never. `address`: its own, where the other end knows one:
  /// towards an origin where it has to go, towards a client who sent it. Null: the flow's target. False: dropped.
  virtual bool send(ConstSpan datagram, const Target* address) = 0;
  /// The flow is over: end quietly. Nothing is reported afterwards.
  virtual void close() = 0;
  /// Goes out in front of the first datagram that does, in the same one, behind what leads it already: a PROXY header.
  void lead_with(ConstSpan header) { header_.insert(header_.end(), header.begin(), header.end()); }

 protected:
  friend class Flow;
  friend class Flows;
  /// What an end sends through, by `send_now`. A datagram that is dropped, also for being too large behind the header,
  /// leaves it to the next.
  template <class SendNow>
  bool send_led(ConstSpan datagram, SendNow send_now) {
    if (header_.empty()) [[likely]]
      return send_now(datagram);
    Bytes both = header_;
    both.insert(both.end(), datagram.begin(), datagram.end());
    if (!send_now(ConstSpan(both))) return false;
    header_ = Bytes();  // its memory goes, too
    return true;
  }

  /// Whether a line of this `kind` may be written, and how many of all flows were not.
  std::optional<std::uint64_t> may_say(Sparingly FlowLines::* kind) const;

  Flow* flow_ = nullptr;

 private:
  Bytes header_;
};

class Flows;

class Flow {
 public:
  Flow(const Flow&) = delete;
  Flow& operator=(const Flow&) = delete;
  ~Flow();

  // Reports of the ends.
  void on_datagram(DatagramEnd& from, ConstSpan datagram, const Target* address);
  /// `from` is over, and with it the flow.
  void on_end(DatagramEnd& from);

  /// An end of it has opened a second socket: it takes the place of a further flow.
  void added_socket();

  void end();
  bool finished() const { return finished_; }
  /// Of this process's flows, as logs count them.
  std::uint64_t datagrams() const { return datagrams_; }

 private:
  friend class Flows;
  friend class DatagramEnd;
  Flow(Flows& home, std::unique_ptr<DatagramEnd> client, std::unique_ptr<DatagramEnd> origin);

  Flows& home_;
  std::unique_ptr<DatagramEnd> client_;
  std::unique_ptr<DatagramEnd> origin_;
  TimePoint last_;
  std::uint64_t datagrams_ = 0;
  std::size_t further_ = 0;  // sockets beyond the first
  bool finished_ = false;
  Flow* newer_ = nullptr;  // by when their last datagram came
  Flow* older_ = nullptr;
};

/// All flows of one loop, the one with the latest datagram first. Bounded: a further one ends the oldest.
class Flows {
 public:
  static constexpr std::size_t kMost = 65536;

  struct Counters {
    std::uint64_t started = 0;
    std::uint64_t datagrams = 0;
    std::uint64_t dropped = 0;    // by an end that could not send, or that led nowhere
    std::uint64_t idle = 0;       // flows that ended because nothing came,
    std::uint64_t displaced = 0;  // and those that a newer one took the place of
  };

  explicit Flows(net::Loop& loop, std::size_t most = kMost);
  Flows(const Flows&) = delete;
  Flows& operator=(const Flows&) = delete;
  ~Flows();

  /// A flow without a datagram for so long ends; from now on.
  void set_idle(Duration idle);
  /// At most so many descriptors(); those that are too many leave as new ones come.
  void set_most(std::size_t most) { most_ = most > 0 ? most : 1; }
  Flow& start(std::unique_ptr<DatagramEnd> client, std::unique_ptr<DatagramEnd> origin);
  /// A datagram that no flow would take.
  void count_dropped() { ++counters_.dropped; }
  void end_all();

  net::Loop& loop() { return loop_; }
  std::size_t size() const { return size_; }
  /// At most, where no flow has sockets of its own at both ends: one for each, and what they have added.
  std::size_t descriptors() const { return size_ + further_; }
  std::size_t most() const { return most_; }
  /// How many there are, and the counters, as an object.
  void describe(JsonWriter& out) const;
  const Counters& counters() const { return counters_; }

 private:
  friend class Flow;
  void make_room(const Flow* stays);
  friend class DatagramEnd;
  void link_newest(Flow& flow);
  void unlink(Flow& flow);
  void touch(Flow& flow);
  void bury(Flow& flow);
  void end_idle();
  void sweep();

  net::Loop& loop_;
  std::size_t most_;
  Duration idle_ = std::chrono::seconds(120);
  Flow* newest_ = nullptr;
  Flow* oldest_ = nullptr;
  Flow* dead_ = nullptr;
  std::size_t size_ = 0;
  std::size_t further_ = 0;
  Counters counters_;
  FlowLines lines_;
  net::Timer timer_;
  net::Deferred sweep_;
};

/// Leads nowhere: takes everything and answers nothing.
class NowhereEnd final : public DatagramEnd {
 public:
  bool send(ConstSpan, const Target*) override { return true; }
  void close() override {}
};

}  // namespace ebb::flow
