#include "common/reverse/forward_mux.h"

#include <algorithm>

namespace ebb::reverse {

ForwardMux::ForwardMux(Duration idle, TimePoint now)
    : session_(mux::Role::acceptor, {.max_streams = kMaxStreams}), idle_(idle), last_active_(now) {}

Decoded<> ForwardMux::feed(ConstSpan in, TimePoint now, mux::SessionEvents& events) {
  last_active_ = now;
  return session_.feed(in, events);
}

void ForwardMux::tick(TimePoint now) {
  if (session_.live_streams() > 0) last_active_ = std::max(last_active_, now - idle_ + std::chrono::seconds(1));
  over_ = now >= last_active_ + idle_ || now >= leaving_at();
}

TimePoint ForwardMux::next_deadline() const {
  if (over_) return TimePoint::max();
  return std::min(last_active_ + idle_, leaving_at());
}

/// A client that has just spoken may be about to open a stream, and would lose it.
TimePoint ForwardMux::leaving_at() const {
  constexpr auto kQuiet = std::chrono::seconds(1);
  if (!leave_at_ || session_.live_streams() > 0) return TimePoint::max();
  return std::max(*leave_at_, last_active_ + kQuiet);
}

void ForwardMux::close(StreamId stream, TimePoint now) {
  session_.close(stream);
  if (session_.live_streams() == 0) last_active_ = now;  // idle from here on
}

void ForwardMux::abort_streams(mux::SessionEvents& events) {
  for (const auto id : session_.ids()) {
    if (!session_.live(id)) continue;  // a callback may have closed it
    void* const user = session_.user(id);
    session_.close(id);
    events.on_end(id, user, true);
  }
}

}  // namespace ebb::reverse
