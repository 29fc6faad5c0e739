// The UDP addresses that a process serves: a flow for each client of each, as long as he sends or is answered.
// A socket is read by one process only, that which outlives reloads, and stays one of a fixed number with SO_REUSEPORT:
// so the kernel's hash keeps every flow on its socket.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>

#include "common/base/fd.h"
#include "common/net/udp_socket.h"
#include "worker/flow/flow.h"

namespace ebb::flow {

class Doors {
 public:
  static constexpr int kBuffers = 4 << 20;  // bytes in the kernel, each socket

  /// What the inbound of an address is; `target` is where its datagrams go.
  struct Inbound {
    std::size_t index = 0;
    Target target;
    friend bool operator==(const Inbound&, const Inbound&) = default;
  };
  struct Owner {
    /// The inbound at an address of ours; nullopt: none, it is not read.
    std::function<std::optional<Inbound>(const Endpoint& local)> inbound_at;
    /// The other end for a client's first datagram. Null: it leads nowhere now, and the datagram is dropped.
    std::function<std::unique_ptr<DatagramEnd>(const Inbound& inbound, const VisitorAddress& client)> open;
  };

  Doors(net::UvLoop& loop, Flows& flows, Owner owner);
  Doors(const Doors&) = delete;
  Doors& operator=(const Doors&) = delete;
  ~Doors();

  /// Takes a copy of a bound UDP socket. Not read before serve().
  void add(std::uint32_t slot, int socket);
  void remove(std::uint32_t slot);
  /// Reads those that are somebody's inbound, and goes on with the flows whose inbound has the same target as before.
  void serve();

  std::size_t size() const { return doors_.size(); }
  /// Of all its sockets, those that are gone too.
  net::UdpSocket::Counters counters() const;

 private:
  class Client;
  class Door;
  /// The 4-tuple: which door stands for our port.
  struct Key {
    Endpoint client;
    IpAddress local;
    std::uint16_t local_port = 0;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct Hash {
    std::uint64_t seed;  // strangers choose their addresses: no two processes collide on the same ones
    std::size_t operator()(const Key& key) const;
  };

  void arrived(Door& door, MutSpan datagram, const Endpoint& from, const IpAddress* local);
  void end_flows(const Door& door);

  net::UvLoop& loop_;
  Flows& flows_;
  Owner owner_;
  std::map<std::uint32_t, std::unique_ptr<Door>> doors_;
  std::unordered_map<Key, Client*, Hash> clients_;
  net::UdpSocket::Counters gone_;  // of removed doors
  bool serving_ = false;
};

}  // namespace ebb::flow
