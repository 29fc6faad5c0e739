#include "worker/relay/relay.h"

#include <utility>

#include "common/base/log.h"

namespace ebb::relay {

Relay::Relay(Relays& home, std::unique_ptr<Side> client, std::unique_ptr<Side> origin, RelayTimes times)
    : home_(home),
      client_(std::move(client)),
      origin_(std::move(origin)),
      times_(times),
      timer_([](void* self) { static_cast<Relay*>(self)->idle_over(); }, this),
      last_(home.loop().now()) {
  client_->relay_ = this;
  origin_->relay_ = this;
  arm();
}

Relay::~Relay() = default;

void Relay::on_data(Side& from, ConstSpan piece) {
  if (finished_) return;
  last_ = home_.loop().now();
  (&from == client_.get() ? bytes_up_ : bytes_down_) += piece.size();
  if (origin_watch_ && &from == origin_.get()) std::exchange(origin_watch_, nullptr)->answered();
  if (!winding_) other(from).send(piece);
}

void Relay::on_batch_end(Side& from) {
  if (finished_) return;
  other(from).flush();  // producers ask before they read again
}

void Relay::origin_ended(const Side& from, const Error* failure) {
  if (!origin_watch_ || &from != origin_.get()) return;
  std::exchange(origin_watch_, nullptr)->ended(failure, client_ended_);
}

std::size_t Relay::may_read(Side& from) { return finished_ || winding_ ? Side::kEverything : other(from).room(); }

void Relay::on_end(Side& from, bool both) {
  if (finished_) return;
  origin_ended(from, nullptr);
  if (winding_) return;  // the side that is left has ended too; its on_wound_down() follows
  Side& to = other(from);
  to.flush();
  if (finished_) return;
  last_ = home_.loop().now();
  if (both) {
    winding_ = true;
    (&from == client_.get() ? client_wound_ : origin_wound_) = true;
    client_ended_ = origin_ended_ = true;
    arm();
    return to.wind_down();
  }
  (&from == client_.get() ? client_ended_ : origin_ended_) = true;
  if (client_ended_ && !origin_ended_) home_.hold(*this);
  if (finished_) return;
  to.send_end();
  if (finished_ || winding_) return;
  if (client_ended_ && origin_ended_) {
    // Both directions are over, but either side may still hold bytes it has to deliver.
    winding_ = true;
    arm();
    client_->wind_down();
    if (!finished_) origin_->wind_down();
    return;
  }
  arm();
}

void Relay::on_failed(Side& from, const Error& why) {
  if (finished_) return;
  if (log_enabled(log::Level::debug)) log_event(log::Level::debug, "relay", "connection failed", kv("reason", why));
  origin_ended(from, &why);
  if (winding_) return on_wound_down(from);  // the other one may still have bytes to deliver
  other(from).abort(why);
  finish();
}

void Relay::on_room(Side& from) {
  if (!finished_ && !winding_) other(from).resume();
}

void Relay::on_progress(Side& from) {
  if (!finished_) other(from).on_consumer_progress();
}

void Relay::on_wound_down(Side& side) {
  (&side == client_.get() ? client_wound_ : origin_wound_) = true;
  if (client_wound_ && origin_wound_) finish();
}

void Relay::abort(const Error& why) {
  if (finished_) return;
  if (log_enabled(log::Level::info)) log_event(log::Level::info, "relay", "connection aborted", kv("reason", why));
  client_->abort(why);
  origin_->abort(why);
  finish();
}

void Relay::keep_half_closed() {
  constexpr Duration kClientMayFinish = std::chrono::seconds(30);
  times_.client_ended = times_.idle;
  times_.origin_ended = std::min(times_.idle, std::max(times_.origin_ended, kClientMayFinish));
}

Duration Relay::period() const {
  Duration out = times_.idle;
  if (client_ended_) out = std::min(out, times_.client_ended);
  if (origin_ended_) out = std::min(out, times_.origin_ended);
  return out;
}

void Relay::arm() {
  if (!finished_) look_again(period());
}

void Relay::look_again(Duration after) {
  delivered_seen_ = client_->delivered() + origin_->delivered();
  queued_seen_ = queued() > 0;
  home_.loop().arm(timer_, after);
}

void Relay::idle_over() {
  if (finished_) return;
  constexpr Duration kShortest = std::chrono::seconds(1);  // between two looks at a queue
  const TimePoint now = home_.loop().now();
  const bool queued_now = queued() > 0;
  // A consumer that still takes what is queued is not idle, however long its queue is.
  const bool took = client_->delivered() + origin_->delivered() != delivered_seen_;
  if (took && (queued_now || queued_seen_)) last_ = now;
  const Duration limit = queued_now ? times_.idle : period();
  const Duration quiet = now - last_;
  // The timer is left alone while bytes flow; it looks at the clock only when it fires.
  if (quiet < limit) return look_again(std::min(limit - quiet, std::max(period(), kShortest)));
  client_->close();
  origin_->close();
  finish();
}

void Relay::finish() {
  if (std::exchange(finished_, true)) return;
  timer_.disarm();
  origin_watch_.reset();
  client_->close();
  origin_->close();
  home_.bury(*this);
}

Relays::Relays(net::Loop& loop) : loop_(loop), sweep_([](void* self) { static_cast<Relays*>(self)->sweep(); }, this) {}

Relays::~Relays() {
  sweep();
  while (head_ != nullptr) head_->finish();
  sweep();
}

Relay& Relays::start(std::unique_ptr<Side> client, std::unique_ptr<Side> origin, RelayTimes times) {
  auto* relay = new Relay(*this, std::move(client), std::move(origin), times);
  relay->next_ = head_;
  if (head_ != nullptr) head_->prev_ = relay;
  head_ = relay;
  ++size_;
  keep_bound();
  return *relay;
}

void Relays::bury(Relay& relay) {
  (relay.prev_ != nullptr ? relay.prev_->next_ : head_) = relay.next_;
  if (relay.next_ != nullptr) relay.next_->prev_ = relay.prev_;
  let_go(relay);
  relay.prev_ = nullptr;
  relay.next_ = std::exchange(dead_, &relay);
  --size_;
  loop_.defer(sweep_);
}

void Relays::hold(Relay& relay) {
  if (std::exchange(relay.held_, true)) return;
  relay.prev_held_ = last_held_;
  (last_held_ != nullptr ? last_held_->next_held_ : first_held_) = &relay;
  last_held_ = &relay;
  ++held_;
  keep_bound();
}

void Relays::let_go(Relay& relay) {
  if (!std::exchange(relay.held_, false)) return;
  (relay.prev_held_ != nullptr ? relay.prev_held_->next_held_ : first_held_) = relay.next_held_;
  (relay.next_held_ != nullptr ? relay.next_held_->prev_held_ : last_held_) = relay.prev_held_;
  relay.prev_held_ = relay.next_held_ = nullptr;
  --held_;
}

void Relays::keep_bound() {
  if (size_ <= bound_ || first_held_ == nullptr) return;
  first_held_->abort(Error{Errc::closed, "too many connections wait for an answer's end", {}});
}

void Relays::sweep() {
  while (dead_ != nullptr) delete std::exchange(dead_, dead_->next_);
}

void Relays::abort_all(const Error& why) {
  while (head_ != nullptr) head_->abort(why);
}

}  // namespace ebb::relay
