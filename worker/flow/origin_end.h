// The end of a flow that is a UDP socket of our own, towards origins: freedom for datagrams.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/net/resolver.h"
#include "common/net/udp_socket.h"
#include "worker/flow/flow.h"

namespace ebb::flow {

/// Where datagrams of a flow go.
struct OriginWay {
  Host host;
  std::uint16_t port = 0;
  bool redirected = false;  // everything goes there, whatever address a datagram has, and answers name none
  std::optional<IpAddress> bind;
};

/// One unconnected socket per address family, as stock programs have: answers are taken from whoever sends them,
/// since protocols such as TFTP answer from another port.
class OriginEnd final : public DatagramEnd {
 public:
  static constexpr std::size_t kMaxWaiting = 16;              // datagrams, while a name is looked up
  static constexpr std::size_t kMaxWaitingBytes = 64 << 10;   // the oldest is dropped
  static constexpr std::size_t kMaxNames = 16;                // a flow's datagrams may go to
  static constexpr auto kAskAgain = std::chrono::seconds(5);  // after a name was not found
  static constexpr int kBuffers = 512 << 10;                  // bytes in the kernel

  OriginEnd(net::UvLoop& loop, OriginWay way);
  ~OriginEnd() override;

  bool send(ConstSpan datagram, const Target* address) override;
  void close() override;

 private:
  struct Socket final : net::UdpObserver {
    explicit Socket(OriginEnd& owner) : end(owner) {}
    void on_datagram(MutSpan datagram, const Endpoint& from, const IpAddress*) override {
      end.answered(datagram, from);
    }
    OriginEnd& end;
    std::unique_ptr<net::UdpSocket> udp;
  };
  struct Name {
    std::string name;
    std::optional<IpAddress> ip;  // nullopt: being looked up, or nobody has it
    std::unique_ptr<net::Lookup> lookup;
    TimePoint asked{};
  };
  struct Waiting {
    Bytes datagram;
    std::string name;
    std::uint16_t port;
  };

  bool send_to(ConstSpan datagram, const Endpoint& to);
  bool send_to_name(ConstSpan datagram, const std::string& name, std::uint16_t port);
  void look_up(Name& entry);
  void looked_up(const std::string& name, Result<std::vector<IpAddress>> found);
  void answered(ConstSpan datagram, const Endpoint& from);
  net::UdpSocket* socket(bool v6);

  net::UvLoop& loop_;
  OriginWay way_;
  std::array<std::unique_ptr<Socket>, 2> sockets_;  // IPv4, IPv6
  std::vector<Name> names_;
  std::deque<Waiting> waiting_;
  std::size_t waiting_bytes_ = 0;
  bool closed_ = false;
};

}  // namespace ebb::flow
