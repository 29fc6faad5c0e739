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

constexpr auto kLeave = std::chrono::seconds(10);           // without progress: then the last bytes are given up
constexpr std::size_t kSpareUnsent = std::size_t{8} << 20;  // Opens and Ends beside what streams may queue
constexpr std::size_t kChunkBytes = 16 * 1024;  // plaintext of one sealed chunk: frames are cut to fill it exactly
constexpr std::size_t kMostUnsent = std::size_t{2} << 20;  // above, datagrams are dropped

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
      behind_timer_([](void* self) { static_cast<Tunnel*>(self)->check_behind(); }, this),
      ending_timer_([](void* self) { static_cast<Tunnel*>(self)->end_those_due(); }, this),
      check_later_([](void* self) { static_cast<Tunnel*>(self)->check_behind(); }, this),
      pump_later_([](void* self) { static_cast<Tunnel*>(self)->pump(); }, this),
      serve_later_([](void* self) { static_cast<Tunnel*>(self)->serve_waiting(); }, this),
      over_later_(
          [](void* self) {
            auto* tunnel = static_cast<Tunnel*>(self);
            tunnel->owner_.on_tunnel_over(tunnel->why_over_);
          },
          this) {
  wire_.observe(this);
}

Tunnel::~Tunnel() { die(Error{Errc::closed, "the process ends", {}}); }

void Tunnel::attach(std::unique_ptr<net::Stream> stream, Bytes unread) {
  wire_.attach(std::move(stream), std::move(unread));
  pump();
}

void Tunnel::set_limits(TunnelLimits limits) {
  if (limits.tunnel_buffer != limits_.tunnel_buffer) engine_->set_budget(limits.tunnel_buffer);
  limits_ = limits;
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

std::unique_ptr<MuxSide> Tunnel::make_side(StreamId stream) {
  auto side = std::make_unique<MuxSide>(*this, stream);
  set_stream_user(stream, side.get());
  return side;
}

void Tunnel::send_frames(ConstSpan frames) {
  if (!dead_) send_own(frames);
}

/// Frames that no room() holds back. A peer that provokes them without reading would have us queue them for ever.
void Tunnel::send_own(ConstSpan frames) {
  wire_.send(frames);
  if (wire_.queued() > limits_.tunnel_buffer + kSpareUnsent) {
    die(Error{Errc::overload, "the other end takes nothing of what it makes us send", {}});
  }
}

void Tunnel::send_data(StreamId stream, ConstSpan piece) {
  if (dead_) return;
  const std::size_t most = engine_->send_limits().max_data;
  // Frames and chunks fit each other: k frames of 8 + n bytes make one 16 KiB chunk, sealed from where the bytes are.
  const std::size_t limit = most + mux::kKeepHead;
  const std::size_t frames = (kChunkBytes + limit - 1) / limit;
  const std::size_t data_bytes = std::min(kChunkBytes / frames - mux::kKeepHead, most);
  constexpr std::size_t kMaxFrames = 8;
  std::array<std::array<std::uint8_t, mux::kKeepHead>, kMaxFrames> heads;
  std::array<ConstSpan, 2 * kMaxFrames> parts;
  while (!piece.empty()) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < std::min(frames, kMaxFrames) && !piece.empty(); ++i) {
      const ConstSpan data = piece.first(std::min(piece.size(), data_bytes));
      mux::write_keep_head(heads[i], stream, data.size());
      parts[count++] = heads[i];
      parts[count++] = data;
      piece = piece.subspan(data.size());
    }
    wire_.send(std::span(parts).first(count));
  }
}

bool Tunnel::send_datagram(StreamId stream, ConstSpan datagram, const Target* address) {
  if (dead_ || datagram.empty() || datagram.size() > engine_->send_limits().max_datagram) return false;
  if (wire_.queued() > kMostUnsent) return false;
  std::array<std::uint8_t, mux::kMaxHead> head;
  std::size_t head_bytes = mux::kKeepHead;
  if (address != nullptr && engine_->packet_addresses()) {
    head_bytes = mux::write_keep_head(head, stream, *address, datagram.size());
    if (head_bytes == 0) return false;
  } else {
    mux::write_keep_head(head, stream, datagram.size());
  }
  const std::array<ConstSpan, 2> parts{ConstSpan(head).first(head_bytes), datagram};
  wire_.send(parts);
  return true;
}

void Tunnel::end_stream(StreamId stream, bool error) {
  std::array<std::uint8_t, mux::kEndFrame> frame;
  mux::write_end(frame, stream, error);
  send_frames(frame);
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
  unchecked_ += bytes.size();
  const auto fed = engine_->feed(bytes, loop_.now(), *this);
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
  if (const bool pressed = blocks_.over_limit(); pressed != pressed_) engine_->set_pressed(pressed_ = pressed);
  // The clock alone would look too late: a quarter of a second can bring hundreds of MiB.
  const std::size_t step = std::min(limits_.stream_buffer, limits_.tunnel_buffer) / 8;
  if (unchecked_ >= step && !behind_.empty()) check_behind();
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
  if (user != nullptr) static_cast<StreamUser*>(user)->on_stream_end(error);
}

void Tunnel::on_fin(StreamId, void* user) {
  if (user != nullptr) static_cast<StreamUser*>(user)->on_stream_fin();
}

void Tunnel::on_credit(StreamId, void* user) {
  if (user != nullptr) static_cast<StreamUser*>(user)->on_stream_credit();
}

void Tunnel::on_wire_end() { leaving_ ? gone() : die(Error{Errc::closed, "the other end closed the tunnel", {}}); }

void Tunnel::on_wire_failed(Error why) { leaving_ ? gone() : die(std::move(why).in("tunnel")); }

// --- room ------------------------------------------------------------------------------------------------------------

std::size_t Tunnel::room() const { return wire_.has_room() ? net::Loop::kReadBytes : 0; }

/// One after the other, in the order they were stopped: each reads once. Who fills the queue again waits again, behind
/// the others.
void Tunnel::serve_waiting() {
  while (first_waiting_ != nullptr && !dead_ && wire_.has_room()) {
    MuxSide& side = *first_waiting_;
    stop_waiting(side);
    side.relay_->on_room(side);
  }
}

void Tunnel::wait_for_turn(MuxSide& side) {
  wait_for_room(side);
  loop_.defer(serve_later_);
}

void Tunnel::wait_for_room(MuxSide& side) {
  if (std::exchange(side.waiting_, true)) return;
  side.prev_waiting_ = last_waiting_;
  side.next_waiting_ = nullptr;
  (last_waiting_ != nullptr ? last_waiting_->next_waiting_ : first_waiting_) = &side;
  last_waiting_ = &side;
}

void Tunnel::stop_waiting(MuxSide& side) {
  if (!std::exchange(side.waiting_, false)) return;
  (side.prev_waiting_ != nullptr ? side.prev_waiting_->next_waiting_ : first_waiting_) = side.next_waiting_;
  (side.next_waiting_ != nullptr ? side.next_waiting_->prev_waiting_ : last_waiting_) = side.prev_waiting_;
}

void Tunnel::unlist(MuxSide& side) {
  stop_waiting(side);
  if (side.dirty_at_ != MuxSide::kNowhere) dirty_[std::exchange(side.dirty_at_, MuxSide::kNowhere)] = nullptr;
  remove_behind(side);
  if (over_limit_ && !dead_) loop_.defer(check_later_);
}

void Tunnel::tell_progress(StreamId stream, std::uint64_t sent_until) {
  if (!progress_due_.empty() && progress_due_.back().stream == stream) {
    progress_due_.back().until = sent_until;
  } else {
    progress_due_.push_back({sent_until, stream});
  }
}

void Tunnel::on_wire_progress() {
  while (!progress_due_.empty() && progress_due_.front().until <= wire_.written()) {
    const StreamId stream = progress_due_.front().stream;
    progress_due_.pop_front();
    auto* user = dead_ ? nullptr : static_cast<StreamUser*>(engine_->user(stream));
    if (user != nullptr) user->on_stream_sent();
  }
}

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
  behind_timer_.disarm();
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
  behind_timer_.disarm();
  ending_timer_.disarm();
  wire_.close();
  loop_.defer(over_later_);
}

}  // namespace ebb::tunnel
