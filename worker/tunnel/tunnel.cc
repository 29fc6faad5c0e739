#include "worker/tunnel/tunnel.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "common/base/log.h"
#include "common/net/linger.h"
#include "worker/layers/plain.h"

namespace ebb::tunnel {
namespace {

constexpr auto kLeave = std::chrono::seconds(10);  // without progress: then the last bytes are given up

}  // namespace

Tunnel::Tunnel(net::Loop& loop, relay::BlockPool& blocks, layers::Stack stack, TunnelLimits limits, std::string peer,
               std::unique_ptr<reverse::Engine> engine, TunnelOwner& owner)
    : loop_(loop),
      wire_(loop, blocks, stack.empty() ? layers::Stack(std::make_unique<layers::PlainLayer>()) : std::move(stack)),
      blocks_(blocks),
      owner_(owner),
      engine_(std::move(engine)),
      limits_(limits),
      id_{++last_tunnel_number()},
      peer_(std::move(peer)),
      since_(loop.now()),
      timer_([](void* self) { static_cast<Tunnel*>(self)->timer_fired(); }, this),
      laggards_timer_([](void* self) { static_cast<Tunnel*>(self)->laggards_due(); }, this),
      ending_timer_([](void* self) { static_cast<Tunnel*>(self)->end_those_due(); }, this),
      room_timer_([](void* self) { static_cast<Tunnel*>(self)->serve(); }, this),
      pump_later_([](void* self) { static_cast<Tunnel*>(self)->pump(); }, this),
      serve_later_([](void* self) { static_cast<Tunnel*>(self)->serve(); }, this),
      memory_later_([](void* self) { static_cast<Tunnel*>(self)->memory_came(); }, this),
      over_later_(
          [](void* self) {
            auto* tunnel = static_cast<Tunnel*>(self);
            tunnel->owner_.on_tunnel_over(tunnel->why_over_);
          },
          this),
      laggards_(limits, limits.sources) {
  wire_.observe(this);
}

Tunnel::~Tunnel() {
  die(Error{Errc::closed, "the process ends", {}});
  blocks_.forget(*this);
}

void Tunnel::attach(std::unique_ptr<net::Stream> stream, Bytes unread) {
  wire_.attach(std::move(stream), std::move(unread));
  pump();
}

void Tunnel::set_limits(TunnelLimits limits) {
  if (limits.tunnel_buffer != limits_.tunnel_buffer) engine_->set_budget(limits.tunnel_buffer);
  limits_ = limits;
  laggards_.set_limits(limits);
}

void Tunnel::kick(const Error& why) {
  if (dead_) return;
  kicked_ = true;
  die(why);
}

void Tunnel::moved() {
  if (!dead_) owner_.on_tunnel_moved();
}

void Tunnel::pump() {
  if (dead_) return;
  pump_later_.cancel();
  if (const Bytes output = engine_->take_output(); !output.empty()) send_own(output);
  if (dead_) return;
  const auto due = engine_->next_deadline();
  if (due == TimePoint::max()) return timer_.disarm();
  // Deadlines move away with every batch: the timer is left alone, and looks again when it fires. `due` may be
  // TimePoint::min(): never subtract from it.
  const TimePoint now = loop_.now();
  const TimePoint at = std::max(due, now);
  if (!timer_.armed() || timer_.due() > at) loop_.arm(timer_, at - now);
}

void Tunnel::timer_fired() {
  if (leaving_) {
    if (left_at_ == wire_.written()) return gone();
    left_at_ = wire_.written();
    return loop_.arm(timer_, kLeave);
  }
  if (dead_) return;
  engine_->tick(loop_.now());
  moved();
  if (!end_if_finished()) pump();
}

bool Tunnel::end_if_finished() {
  if (dead_ || !engine_->dead()) return dead_;
  const reverse::TunnelEnd kind = engine_->end();
  const Error why{Errc::closed, "tunnel is over: " + std::string(reverse::name_of(kind)), {}};
  const bool orderly = kind != reverse::TunnelEnd::unresponsive && kind != reverse::TunnelEnd::fatal_frame;
  orderly ? leave(why) : die(why);
  return true;
}

// --- streams ---------------------------------------------------------------------------------------------------------

std::unique_ptr<MuxSide> Tunnel::make_side(StreamId stream, SourceLedger::Key source) {
  auto side = std::make_unique<MuxSide>(*this, stream, source);
  set_stream_user(stream, side.get());
  return side;
}

void Tunnel::send_frames(ConstSpan frames) {
  if (dead_) return;
  // What the engine has said may be what the peer needs to understand these: a hello before a FIN.
  if (engine_->has_output()) send_own(engine_->take_output());
  if (!dead_) send_own(frames);
}

void Tunnel::end_stream(StreamId stream) {
  std::array<std::uint8_t, mux::kEndFrame> frame;
  mux::write_end(frame, stream, false);
  send_frames(frame);
  forget(stream);
  pump();
}

void Tunnel::abort_stream(StreamId stream, const reverse::Abort& why) {
  std::array<std::uint8_t, reverse::kMaxAbortFrame> frame;
  send_frames(ConstSpan(frame).first(engine_->write_abort(frame, stream, why)));
  forget(stream);
  pump();
}

bool Tunnel::send_fin(StreamId stream) {
  std::array<std::uint8_t, mux::kEndFrame> frame;
  mux::write_fin(frame, stream);
  send_frames(frame);
  const bool over = engine_->fin_sent(stream, loop_.now());
  moved();
  return over;
}

void Tunnel::hold(StreamId stream, bool end_sent) {
  engine_->hold(stream, end_sent);
  moved();
}

void Tunnel::forget(StreamId stream) {
  engine_->close(stream, loop_.now());
  moved();
}

void Tunnel::consumed(StreamId stream, std::uint64_t bytes) {
  if (dead_) return;
  look_at_memory();
  engine_->consumed(stream, bytes, loop_.now());
  // One message for all that is consumed in this turn.
  if (engine_->has_output()) loop_.defer(pump_later_);
}

void Tunnel::end_later(StreamId stream, Duration after) {
  ending_.push_back({loop_.now() + after, stream});
  hold(stream, false);
  if (!ending_timer_.armed()) loop_.arm_at(ending_timer_, ending_.front().due);
}

void Tunnel::end_those_due() {
  while (!ending_.empty() && ending_.front().due <= loop_.now()) {
    void* const user = dead_ ? nullptr : engine_->user(ending_.front().stream);
    ending_.pop_front();
    if (user != nullptr) static_cast<StreamUser*>(user)->on_end_due();
  }
  if (!ending_.empty()) loop_.arm_at(ending_timer_, ending_.front().due);
}

// --- what comes ------------------------------------------------------------------------------------------------------

void Tunnel::on_plain(MutSpan bytes) {
  if (dead_) return;
  const auto fed = engine_->feed(bytes, loop_.now(), *this);
  violations_.look(engine_->violations(), id_, peer_, loop_.now());
  moved();
  if (!fed) die(explain(fed.error()).in("mux frame"));
}

void Tunnel::on_batch_end() {
  // Sides told of their batch may end themselves or others: take the list out, and skip what has left it.
  for (std::size_t i = 0; i < dirty_.size(); ++i) {
    MuxSide* side = std::exchange(dirty_[i], nullptr);
    if (side == nullptr) continue;
    side->dirty_at_ = MuxSide::kNowhere;
    side->on_batch_end();
  }
  dirty_.clear();
  look_at_memory();
  if (dead_ || end_if_finished()) return;
  pump();
}

void Tunnel::on_open(StreamId stream, const Target& target, ConstSpan trailing) {
  owner_.on_stream_opened(stream, target, trailing);
}

void Tunnel::on_data(StreamId, void* user, ConstSpan piece) {
  if (user != nullptr) static_cast<StreamUser*>(user)->on_stream_data(piece);
}

void Tunnel::on_datagram(StreamId, void* user, const Target* from, ConstSpan payload) {
  if (user != nullptr) static_cast<StreamUser*>(user)->on_stream_datagram(from, payload);
}

void Tunnel::on_end(StreamId, void* user, bool error) {
  if (user == nullptr) return;
  const auto why = error && !dead_ ? engine_->abort_reason() : std::nullopt;  // not of the stream whose end killed us
  static_cast<StreamUser*>(user)->on_stream_end(error, why ? &*why : nullptr);
}

void Tunnel::on_fin(StreamId, void* user) {
  if (user != nullptr) static_cast<StreamUser*>(user)->on_stream_fin();
}

void Tunnel::on_credit(StreamId, void* user) {
  if (user != nullptr) static_cast<StreamUser*>(user)->on_stream_credit();
}

void Tunnel::on_wire_end() { leaving_ ? gone() : die(Error{Errc::closed, "the other end closed the tunnel", {}}); }

void Tunnel::on_wire_failed(Error why) { leaving_ ? gone() : die(std::move(why).in("tunnel")); }

// --- the end ---------------------------------------------------------------------------------------------------------

void Tunnel::die(const Error& why) {
  if (std::exchange(dead_, true)) return;
  why_over_ = why;
  engine_->abort_streams(*this);
  gone();
}

/// Carries nothing more, but what was said is delivered: Ends, and the last bytes of streams that are over.
void Tunnel::leave(const Error& why) {
  if (dead_) return;
  if (const Bytes last = engine_->take_output(); !last.empty()) wire_.send(last);
  dead_ = leaving_ = true;
  why_over_ = why;
  laggards_timer_.disarm();
  engine_->abort_streams(*this);
  wire_.discard_input();
  wire_.send_end();
  left_at_ = wire_.written();
  loop_.arm(timer_, kLeave);
}

void Tunnel::on_wire_sent_all() {
  if (auto stream = wire_.detach()) net::linger_close(std::move(stream));
  gone();
}

void Tunnel::gone() {
  leaving_ = false;
  timer_.disarm();
  laggards_timer_.disarm();
  ending_timer_.disarm();
  room_timer_.disarm();
  if (std::exchange(pressed_, false)) blocks_.forget(*this);
  memory_later_.cancel();
  wire_.close();
  loop_.defer(over_later_);
}

}  // namespace ebb::tunnel
