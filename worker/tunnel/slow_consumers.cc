// Slow consumers of peers without credit: what laggards.h decides, done.
#include "common/base/log.h"
#include "worker/tunnel/tunnel.h"

namespace ebb::tunnel {

void Tunnel::consumer_holds(MuxSide::Lagging& consumer, std::size_t queued, std::uint64_t delivered) {
  look_at_memory();
  laggards_.update(consumer, queued, delivered, loop_.now());
  follow_laggards();
}

/// To be asked whenever this tunnel's consumers have taken or queued something. Memory that others give back is told: a
/// tunnel that is not read for want of it has no events of its own.
void Tunnel::look_at_memory() {
  const bool pressed = blocks_.over_limit();
  if (dead_ || pressed == pressed_) return;
  pressed_ = pressed;
  pressed ? blocks_.wait(*this) : blocks_.forget(*this);
  engine_->set_pressed(pressed);
  laggards_.set_pressed(pressed, loop_.now());
  follow_laggards();
}

/// Its peer is held to credit from here on.
void Tunnel::consumer_leaves(std::unique_ptr<MuxSide::Lagging> consumer) {
  laggards_.leave(*consumer);
  follow_laggards();
}

void Tunnel::memory_came() {
  if (pressed_ && !dead_ && blocks_.over_limit()) return blocks_.wait(*this);  // it is gone already
  look_at_memory();
}

void Tunnel::follow_laggards() {
  if (dead_) return;
  if (const bool reading = laggards_.may_read(); reading != reading_) {
    reading_ = reading;
    wire_.set_reading(reading);
    engine_->set_reading(reading, loop_.now());
    loop_.defer(pump_later_);
  }
  if (const bool congested = laggards_.congested(); congested != congested_) {
    congested_ = congested;
    if (congested && laggards_.take_warning(loop_.now())) {
      log_event(log::Level::warning, "tunnel", "a slow consumer holds up its tunnel: new streams go to another one",
                kv("tunnel", id_.value), kv("peer", peer_), kv("queued_bytes", laggards_.queued()));
    }
    owner_.on_congestion_changed();
  }
  const TimePoint due = laggards_.next_deadline();
  if (due == TimePoint::max()) return laggards_timer_.disarm();
  if (!laggards_timer_.armed() || laggards_timer_.due() > due) loop_.arm_at(laggards_timer_, due);
}

void Tunnel::laggards_due() {
  look_at_memory();
  laggards_.look(
      [](const Consumer& each) { return static_cast<const MuxSide::Lagging&>(each).side.consumer().delivered(); });
  while (!dead_) {
    Consumer* const stalled = laggards_.overdue(loop_.now());
    if (stalled == nullptr) break;
    MuxSide& side = static_cast<MuxSide::Lagging*>(stalled)->side;
    log_event(log::Level::warning, "tunnel", "stalled stream was reset", kv("tunnel", id_.value),
              kv("stream", side.stream_.value), kv("queued_bytes", stalled->queued()));
    side.relay_->abort(Error{Errc::closed, "the consumer took too little for too long", {}});
  }
  follow_laggards();
}

}  // namespace ebb::tunnel
