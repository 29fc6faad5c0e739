// Inbounds that ask nobody: the configuration says where to.
#pragma once

#include "common/config/config.h"
#include "worker/inbound/door.h"

namespace ebb::inbound {

/// dokodemo-door. `settings.protocol` is one.
Result<Entrance> enter_fixed(const config::Inbound& settings, const DoorKit& kit);

}  // namespace ebb::inbound
