// What became of a visitor's stream, for the pool that chooses his successors' bridges, and in words for the log.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "common/base/address.h"
#include "common/base/result.h"
#include "common/base/sparingly.h"
#include "common/net/loop.h"
#include "common/reverse/health.h"
#include "common/reverse/portal_tunnel.h"
#include "worker/relay/relay.h"
#include "worker/tunnel/tunnel.h"

namespace ebb::broker {

class StreamWatch final : public relay::OriginWatch {
 public:
  /// What is said of aborted streams, one line a second for each kind of reason. It has to outlive the watches.
  using Lines = std::array<Sparingly, kErrorCodes>;
  /// Names for the log; only made where it is written.
  struct Names {
    std::string tag;  // the portal's
    Target target;
    std::optional<Endpoint> visitor;
  };

  /// `tunnel` has the stream, and ends it even in its destructor; `plan` is what runs in it.
  StreamWatch(reverse::Health& health, const reverse::Health::Ticket& ticket, const tunnel::Tunnel& tunnel,
              const reverse::PortalTunnel& plan, const net::Loop& loop, Lines& lines, std::optional<Names> names);
  ~StreamWatch() override;
  void answered() override;
  void ended(const Error* failure, bool client_ended) override;

 private:
  reverse::Health& health_;
  const reverse::Health::Ticket ticket_;
  const tunnel::Tunnel& tunnel_;
  const reverse::PortalTunnel& plan_;
  const net::Loop& loop_;
  Lines& lines_;
  const std::optional<Names> names_;
  bool told_ = false;
};

}  // namespace ebb::broker
