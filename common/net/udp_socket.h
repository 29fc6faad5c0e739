// A UDP socket on a loop: datagrams in by recvmmsg, out at once or collected and sent by sendmmsg. What cannot go out
// now is dropped and counted: nothing here waits.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "common/base/address.h"
#include "common/base/bytes.h"
#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/net/poll.h"

namespace ebb::net {

class UdpObserver {
 public:
  /// `datagram` may be empty, and is valid during the call. `local`: the address of ours it was sent to, where the
  /// socket tells (tell_local_address()). Neither callback may destroy the socket; close() is allowed.
  virtual void on_datagram(MutSpan datagram, const Endpoint& from, const IpAddress* local) = 0;
  /// All that this wake-up brings has been told.
  virtual void on_datagrams_end() {}

 protected:
  ~UdpObserver() = default;
};

class UdpSocket {
 public:
  static constexpr std::size_t kMaxDatagram = 65507;  // bytes: what UDP over IPv4 can carry
  static constexpr unsigned kBatch = 32;              // datagrams a system call
  static constexpr unsigned kBatchesPerTurn = 4;      // and calls a wake-up: then the other sockets have their turn

  struct Counters {
    std::uint64_t received = 0;
    std::uint64_t sent = 0;
    std::uint64_t dropped = 0;  // not taken by the kernel
    Counters& operator+=(const Counters& more) {
      received += more.received;
      sent += more.sent;
      dropped += more.dropped;
      return *this;
    }
  };

  /// A non-blocking socket bound to `address` (port 0: any). Errors: os.
  static Result<Fd> bind(const Endpoint& address);
  /// Asks the kernel for larger buffers than its default, as far as it lets us.
  static void widen_buffers(int fd, int bytes);
  /// From now on each datagram says to which address of ours it came: an answer has to come from there.
  static void tell_local_address(int fd, bool v6);

  /// Null: the kernel cannot poll it. Reads nothing before watch(true).
  static std::unique_ptr<UdpSocket> make(UvLoop& loop, Fd socket, UdpObserver& observer);
  UdpSocket(const UdpSocket&) = delete;
  UdpSocket& operator=(const UdpSocket&) = delete;
  ~UdpSocket();

  void watch(bool reading);
  /// Sends now. `local`: the address of ours to send from, where there is a choice. False: dropped.
  bool send(ConstSpan datagram, const Endpoint& to, const IpAddress* local = nullptr);
  /// Sends with others of this wake-up, in order, at its end or when a batch is full.
  void send_later(ConstSpan datagram, const Endpoint& to, const IpAddress* local = nullptr);
  void flush();
  /// Reads and sends nothing any more.
  void close();

  int fd() const { return socket_.get(); }
  const Counters& counters() const { return counters_; }

 private:
  struct Out;  // what send_later() collects
  UdpSocket(UvLoop& loop, Fd socket, UdpObserver& observer);
  void read_some();

  UvLoop& loop_;
  Fd socket_;
  UdpObserver& observer_;
  std::unique_ptr<Poll> poll_;
  std::unique_ptr<Out> out_;
  Deferred flush_later_;
  Counters counters_;
  bool closed_ = false;
};

}  // namespace ebb::net
