// The ways out: from an outbound of the configuration and a target to the side of a relay that reaches it.
#pragma once

#include <cstddef>
#include <memory>

#include "common/base/address.h"
#include "common/config/config.h"
#include "common/crypto/random.h"
#include "common/net/uv_loop.h"
#include "worker/flow/flow.h"
#include "worker/outbound/way.h"
#include "worker/relay/relay.h"
#include "worker/relay/wire.h"
#include "worker/tunnel/tunnel.h"

namespace ebb::outbound {

/// What everything on one loop shares.
struct Surroundings {
  net::UvLoop& loop;
  relay::BlockPool& blocks;
  crypto::RandomSource& random;
};

class Outbounds {
 public:
  /// `config` must outlive this. `find_way` knows every kind of outbound: worker/protocols.
  Outbounds(const config::Config& config, Surroundings surroundings, FindWay find_way)
      : config_(config), around_(surroundings), find_way_(find_way) {}

  /// The origin side of a relay to `target` through outbound number `index`: dials, queues what comes before the
  /// connection is there, and fails the relay when it cannot be made.
  std::unique_ptr<relay::Side> open(std::size_t index, const Target& target);

  /// The origin end of a flow of datagrams to `target`. Null: this outbound does not carry them there.
  std::unique_ptr<flow::DatagramEnd> open_flow(std::size_t index, const Target& target);

  /// How outbound `index` reaches `target`, for a tunnel that dials by itself (one attempt; the bridge has its own
  /// back-off). Errors: refused, for an outbound that leads nowhere (blackhole) or a target it cannot carry.
  Result<Way> way(std::size_t index, const Target& target);

  const config::Config& config() const { return config_; }

 private:
  const config::Config& config_;
  Surroundings around_;
  FindWay find_way_;
  std::size_t turn_ = 0;
};

/// The policy timers of a level as a relay wants them.
relay::RelayTimes relay_times(const config::PolicyLevel& level);
/// What a tunnel may hold for slow consumers.
tunnel::TunnelLimits tunnel_limits(const config::Settings& settings);

}  // namespace ebb::outbound
