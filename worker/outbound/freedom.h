// Straight to the target, or to where `redirect` sends everybody.
#pragma once

#include "worker/outbound/way.h"

namespace ebb::outbound {

/// `outbound.protocol` is freedom. Errors: refused (UDP, port 0).
Result<Way> freedom_way(const config::Outbound& outbound, const Target& target, const WayKit& kit);
/// `outbound.protocol` is blackhole. Errors: refused, always.
Result<Way> blackhole_way(const config::Outbound& outbound, const Target& target, const WayKit& kit);

}  // namespace ebb::outbound
