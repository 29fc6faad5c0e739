// The checks behind cross_check() (draft.h), one per file.
#pragma once

#include "common/config/draft.h"

namespace ebb::config {

/// Bridges, portals and rules by the model of reach.h: BRIDGE_*, PORTAL_*, TUNNEL_MUX, RULE_NEVER_MATCHES, UNREACHABLE,
/// DOMAIN_SUBSTRING, DOMAIN_CASE.
void check_reach(const Draft& draft, Report& report);

}  // namespace ebb::config
