// A worker's Edge with three inbounds on real sockets, and the broker's end of its link.
#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/protocol/vmess/client.h"
#include "ipc/channel.h"
#include "ipc/message.h"
#include "tests/support/turns.h"
#include "worker/edge/edge.h"

namespace ebb::edge {

using namespace std::chrono_literals;
using test::run_until;

inline const IpAddress kLoopback = IpAddress::from_v4({127, 0, 0, 1});

struct Listener {
  Fd fd;
  std::uint16_t port = 0;
};

inline Listener make_listener() {
  Listener out{Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)), 0};
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(out.fd.get(), generic, length) != 0 || ::listen(out.fd.get(), 64) != 0) std::abort();
  if (::getsockname(out.fd.get(), generic, &length) != 0) std::abort();
  out.port = ntohs(address.sin_port);
  return out;
}

/// A connected, then non-blocking client.
inline Fd connect_to(std::uint16_t port) {
  Fd out(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage storage{};
  const unsigned length = endpoint_to({kLoopback, port}, storage);
  if (::connect(out.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0) std::abort();
  const int on = 1;
  ::ioctl(out.get(), FIONBIO, &on);
  return out;
}

inline void send_bytes(const Fd& fd, ConstSpan bytes) {
  ASSERT_EQ(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
}
inline void send_text(const Fd& fd, std::string_view text) { send_bytes(fd, as_bytes(text)); }

/// Appends what has arrived; "<end>" at end of stream.
inline void receive(const Fd& fd, std::string& into) {
  char buffer[4096];
  const ssize_t n = ::recv(fd.get(), buffer, sizeof buffer, MSG_DONTWAIT);
  if (n > 0) into.append(buffer, static_cast<std::size_t>(n));
  if (n == 0 && !into.ends_with("<end>")) into += "<end>";
}

inline UnixSeconds unix_now() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// One worker's Edge with a dokodemo-door to `origin` (inbound 0), one to a portal (1) and VMess (2).
class EdgeTest : public testing::Test {
 protected:
  /// `proxies`: every inbound expects a PROXY header from these sources; empty: none does.
  explicit EdgeTest(std::vector<std::string> proxies = {}) {
    config::Config config;
    config.inbounds.resize(3);
    config.inbounds[0].tag = "direct";
    config.inbounds[0].protocol = config::DokodemoInbound{kLoopback, origin.port, 0};
    config.inbounds[1].tag = "public";
    config.inbounds[1].protocol = config::DokodemoInbound{std::string("service"), 80, 0};
    config.inbounds[2].tag = "vmess";
    config::VmessUser user;
    user.id.value.fill(9);
    user.email = "nas@home";
    config.inbounds[2].protocol = config::VmessInbound{{user}, false};
    config.outbounds.push_back({"out", config::FreedomOutbound{}, std::nullopt});
    config::Portal portal;
    portal.tag = "portal";
    portal.domain = "bridge.internal";
    config.portals.push_back(portal);
    routing::Rule to_portal;
    to_portal.inbound_tags = {"public"};
    to_portal.outbound_tag = "portal";
    config.rules.push_back(to_portal);
    routing::Rule registration;
    registration.domains = {"full:bridge.internal"};
    registration.outbound_tag = "portal";
    config.rules.push_back(registration);

    for (auto& inbound : config.inbounds) inbound.accept_proxy_protocol = !proxies.empty();
    config.settings.trusted_proxies = std::move(proxies);

    edge = std::move(Edge::make(loop, std::move(config), std::move(*ipc::ReplayTable::create(4096))).value());
    for (std::size_t i = 0; i < slots.size(); ++i) {
      ipc::SlotGrant grant{.cookie = 100 + i, .slot = static_cast<std::uint32_t>(i), .listener = 7};
      grant.inbound = static_cast<std::uint16_t>(i);
      edge->listeners().add(grant, Fd(::dup(slots[i].fd.get())));
    }
    edge->start();
  }

  void add_broker(std::uint32_t credits = 16) {
    auto ends = ipc::pair();
    broker.emplace(std::move(ends->second), ipc::Link::handoff, ipc::Role::broker, ipc::Role::worker);
    edge->handoff().add_link({1, 7, credits}, std::move(ends->first), 3);
  }
  /// Reads what the worker sent to the broker.
  void read_broker() {
    broker->on_readable([this](ipc::Message& message) {
      if (message.type() != ipc::Type::offer) return;
      messages.push_back(message.header.nrec);
      for (std::size_t i = 0; i < message.header.nrec; ++i) {
        const auto record = message.records<ipc::OfferRecord>()[i];
        offers.push_back(record);
        offered_fds.push_back(std::move(message.fds[i]));
        const ConstSpan blob = message.body.subspan(message.header.nrec * sizeof record);
        blobs.emplace_back(blob.begin(), blob.end());
      }
    });
  }
  bool offers_come(std::size_t count) {
    return run_until(loop, [&] {
      read_broker();
      return offers.size() >= count;
    });
  }
  void take(ipc::Hid hid) { broker->send_records(ipc::Type::take, std::span<const ipc::Hid>(&hid, 1)); }
  vmess::ClientHandshake client_of(const Target& target) {
    vmess::ClientOptions options;
    options.user.id.value.fill(9);
    return vmess::ClientHandshake::make(options, target, unix_now(), random).value();
  }

  net::UvLoop loop;
  Listener origin = make_listener();
  std::array<Listener, 3> slots{make_listener(), make_listener(), make_listener()};
  std::unique_ptr<Edge> edge;
  crypto::SystemRandom random;
  std::optional<ipc::Channel> broker;
  std::vector<std::size_t> messages;  // how many offers each had
  std::vector<ipc::OfferRecord> offers;
  std::vector<Fd> offered_fds;
  std::vector<Bytes> blobs;
};

}  // namespace ebb::edge
