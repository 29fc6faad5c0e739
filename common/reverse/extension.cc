#include "common/reverse/extension.h"

#include <array>

namespace ebb::reverse {

std::optional<Ping> take_extension(const Control& message, TimePoint now, FlowControl& flow, Liveness& liveness,
                                   const mux::Session& session, mux::SessionEvents& events) {
  for (const Window& window : message.windows) {
    if (window.session > 0xffff) continue;
    const StreamId stream{static_cast<std::uint16_t>(window.session)};
    if (flow.add(stream, window.add)) events.on_credit(stream, session.user(stream));
  }
  if (!message.ping) return std::nullopt;
  if (!message.ping->reply) return Ping{message.ping->id, true};
  liveness.ping_answered(message.ping->id, now);
  flow.budget().set_rtt(liveness.min_rtt());
  return std::nullopt;
}

void append_control(mux::Session& session, StreamId stream, const Control& message) {
  const auto bytes = encode_control(message);
  std::array<std::uint8_t, mux::kKeepHead> head{};
  mux::write_keep_head(head, stream, bytes.size());
  session.append_output(head);
  session.append_output(bytes);
}

void tell_agreed(std::span<const StreamId> early, std::uint64_t features, mux::Session& session,
                 mux::SessionEvents& events) {
  for (const StreamId stream : early) {
    if (!session.live(stream)) continue;  // a callback may have closed it
    if ((features & kFeatureHalfClose) != 0) session.agree_half_close(stream);
    events.on_credit(stream, session.user(stream));
  }
}

}  // namespace ebb::reverse
