// A connection to be made, and what it has to speak.
#pragma once

#include <cstddef>

#include "common/base/address.h"
#include "common/base/result.h"
#include "common/config/config.h"
#include "common/crypto/random.h"
#include "common/net/dial.h"
#include "worker/layers/stack.h"

namespace ebb::outbound {

struct Way {
  net::DialPlan plan;
  layers::Stack stack;  // empty: plain
};

/// What ways are made with; outlives the connections.
struct WayKit {
  crypto::RandomSource& random;
  std::size_t& turn;  // counted by outbounds that use several servers in turn
};

/// Finds the way of one outbound to `target`. Errors: refused, for what it cannot carry or leads nowhere.
using FindWay = Result<Way> (*)(const config::Outbound& outbound, const Target& target, const WayKit& kit);

}  // namespace ebb::outbound
