// What a Control message between our own nodes may carry beside its state, as either end takes it. PROTOCOL.md, MXR.
#pragma once

#include <optional>

#include "common/protocol/mux/session.h"
#include "common/reverse/control.h"
#include "common/reverse/flow_control.h"
#include "common/reverse/tunnel.h"

namespace ebb::reverse {

/// Windows give credit (`events` hears of streams that had none), an answered ping tells the round trip time. Returns
/// what a ping is to be answered with.
std::optional<Ping> take_extension(const Control& message, TimePoint now, FlowControl& flow, Liveness& liveness,
                                   const mux::Session& session, mux::SessionEvents& events);

}  // namespace ebb::reverse
