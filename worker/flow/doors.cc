#include "worker/flow/doors.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "common/base/log.h"

namespace ebb::flow {
namespace {

std::optional<Endpoint> bound_address(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return std::nullopt;
  return endpoint_from(reinterpret_cast<const sockaddr*>(&storage));
}

}  // namespace

/// A socket of an address of ours.
class Doors::Door final : public net::UdpObserver {
 public:
  Door(Doors& owner, Endpoint address) : doors(owner), local(address) {}
  void on_datagram(MutSpan datagram, const Endpoint& from, const IpAddress* to) override {
    doors.arrived(*this, datagram, from, to);
  }

  Doors& doors;
  Endpoint local;
  std::optional<Inbound> inbound;
  std::unique_ptr<net::UdpSocket> socket;
};

/// A client's end of his flow.
class Doors::Client final : public DatagramEnd {
 public:
  Client(Doors& owner, Door& at, const Key& who) : doors_(owner), door_(&at), key_(who) {}
  ~Client() override { close(); }

  bool send(ConstSpan datagram, const Target*) override {
    if (door_ == nullptr || datagram.size() > net::UdpSocket::kMaxDatagram) return false;
    door_->socket->send_later(datagram, key_.client, &key_.local);
    return true;
  }
  void close() override {
    if (std::exchange(door_, nullptr) != nullptr) doors_.clients_.erase(key_);
  }
  void told(ConstSpan datagram) { flow_->on_datagram(*this, datagram, nullptr); }
  void end() { flow_->on_end(*this); }
  const Door* door() const { return door_; }

 private:
  Doors& doors_;
  Door* door_;
  Key key_;
};

std::size_t Doors::Hash::operator()(const Key& key) const {
  std::uint64_t out = seed;
  const auto mix = [&out, salt = seed](const IpAddress& ip, std::uint64_t port) {
    std::uint64_t words[2];
    std::memcpy(words, ip.bytes.data(), sizeof words);
    for (const std::uint64_t word : {words[0], words[1], port + (ip.v6 ? 1u << 16 : 0u)}) {
      out = (out ^ word) * (0x9e3779b97f4a7c15u ^ salt << 1);
      out ^= out >> 29;
    }
  };
  mix(key.client.ip, key.client.port);
  mix(key.local, key.local_port);
  return out;
}

Doors::Doors(net::UvLoop& loop, Flows& flows, Owner owner)
    : loop_(loop), flows_(flows), owner_(std::move(owner)), clients_(16, Hash{std::random_device{}() | 1u}) {}

Doors::~Doors() {
  for (auto& [slot, door] : doors_) end_flows(*door);
}

void Doors::add(std::uint32_t slot, int socket) {
  remove(slot);
  Fd copy(::fcntl(socket, F_DUPFD_CLOEXEC, 0));
  const auto local = copy ? bound_address(copy.get()) : std::nullopt;
  if (!local) return log_event(log::Level::error, "flow", "UDP slot cannot be used", kv("slot", slot));
  net::UdpSocket::widen_buffers(copy.get(), kBuffers);
  net::UdpSocket::tell_local_address(copy.get(), local->ip.v6);
  auto door = std::make_unique<Door>(*this, *local);
  door->socket = net::UdpSocket::make(loop_, std::move(copy), *door);
  if (door->socket == nullptr) {
    return log_event(log::Level::error, "flow", "UDP slot cannot be polled", kv("slot", slot));
  }
  doors_[slot] = std::move(door);
  if (serving_) serve();
}

void Doors::remove(std::uint32_t slot) {
  const auto at = doors_.find(slot);
  if (at == doors_.end()) return;
  end_flows(*at->second);
  gone_ += at->second->socket->counters();
  doors_.erase(at);
}

void Doors::serve() {
  serving_ = true;
  for (auto& [slot, door] : doors_) {
    const auto inbound = owner_.inbound_at(door->local);
    // A flow may live for ever: a configuration that sends its datagrams elsewhere would never come into force.
    if (door->inbound && (!inbound || inbound->target != door->inbound->target)) end_flows(*door);
    door->inbound = inbound;
    door->socket->watch(inbound.has_value());
  }
}

net::UdpSocket::Counters Doors::counters() const {
  auto all = gone_;
  for (const auto& [slot, door] : doors_) all += door->socket->counters();
  return all;
}

void Doors::end_flows(const Door& door) {
  std::vector<Client*> ending;  // each leaves the table
  for (const auto& [key, client] : clients_) {
    if (client->door() == &door) ending.push_back(client);
  }
  for (Client* client : ending) client->end();
}

void Doors::arrived(Door& door, MutSpan datagram, const Endpoint& from, const IpAddress* local) {
  const Key key{from, local != nullptr ? *local : door.local.ip, door.local.port};
  const auto known = clients_.find(key);
  if (known != clients_.end()) return known->second->told(datagram);
  auto origin = door.inbound ? owner_.open(*door.inbound, {from, Endpoint{key.local, key.local_port}}) : nullptr;
  if (origin == nullptr) return flows_.count_dropped();
  auto end = std::make_unique<Client>(*this, door, key);
  Client& client = *end;
  flows_.start(std::move(end), std::move(origin));
  clients_[key] = &client;
  client.told(datagram);
}

}  // namespace ebb::flow
