// What a Control message between our own nodes may carry beside its state, as either end takes it. PROTOCOL.md, MXR.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "common/protocol/mux/session.h"
#include "common/reverse/control.h"
#include "common/reverse/flow_control.h"
#include "common/reverse/tunnel.h"

namespace ebb::reverse {

/// Windows give credit (`events` hears of streams that had none), an answered ping tells the round trip time. Returns
/// what a ping is to be answered with.
std::optional<Ping> take_extension(const Control& message, TimePoint now, FlowControl& flow, Liveness& liveness,
                                   const mux::Session& session, mux::SessionEvents& events);

/// `message` on the control stream `stream`, into the session's output.
void append_control(mux::Session& session, StreamId stream, const Control& message);

/// To the streams that were there before the hello came: which of the `features` they have from here on. `events` hears
/// of their credit.
void tell_agreed(std::span<const StreamId> early, std::uint64_t features, mux::Session& session,
                 mux::SessionEvents& events);

}  // namespace ebb::reverse
