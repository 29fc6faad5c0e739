#include "worker/relay/tunnel.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "common/base/log.h"
#include "common/net/linger.h"
#include "worker/layers/plain.h"

namespace ebb::relay {
namespace {

constexpr auto kBehindCheck = std::chrono::milliseconds(100);
constexpr auto kLeave = std::chrono::seconds(10);           // without progress: then the last bytes are given up
constexpr std::size_t kSpareUnsent = std::size_t{8} << 20;  // Opens and Ends beside what streams may queue
/// Above what streams queue (Wire::kHigh): they stop there, and would leave no datagram any room.
constexpr std::size_t kMostUnsent = 2 * Wire::kHigh;
constexpr std::size_t kChunkBytes = 16 * 1024;  // plaintext of one sealed chunk: frames are cut to fill it exactly

}  // namespace

// --- MuxSide ---------------------------------------------------------------------------------------------------------

MuxSide::MuxSide(Tunnel& tunnel, StreamId stream) : tunnel_(&tunnel), stream_(stream) {}

MuxSide::~MuxSide() { close(); }

void MuxSide::send(ConstSpan piece) {
  if (tunnel_ == nullptr || fin_sent_ || end_sent_) return;
  tunnel_->send_data(*this, piece);
  if (tunnel_ != nullptr) sent_until_ = tunnel_->wire_.accepted();
}

/// What has to leave before our last bytes have left: the queue is one for all streams.
std::size_t MuxSide::queued() const {
  if (tunnel_ == nullptr || sent_until_ <= tunnel_->wire_.written()) return 0;
  return static_cast<std::size_t>(sent_until_ - tunnel_->wire_.written());
}

std::uint64_t MuxSide::delivered() const { return tunnel_ != nullptr ? tunnel_->wire_.written() : sent_until_; }

void MuxSide::send_end() {
  if (tunnel_ == nullptr || fin_sent_ || end_sent_) return;
  using reverse::HalfClose;
  const HalfClose how = tunnel_->half_close(stream_);
  if (how == HalfClose::fin) return send_fin();
  if (how == HalfClose::listen) {
    relay_->set_patience(consumer(), kAnswerPatience);
    // A visitor who is gone altogether resets what still comes; only End + Error with no End before it stops a stock
    // bridge's download then. So where an answer flows, End waits for that sign.
    return tunnel_->loop_.now() - heard_at_ < kFlowing ? tunnel_->end_soon(*this) : end_and_listen();
  }
  if (how == HalfClose::quiet && tunnel_->quiet_before_end() > Duration(0)) {
    relay_->set_patience(consumer(), tunnel_->quiet_before_end());
    return tunnel_->hold(stream_, false);
  }
  end(false);
  relay_->on_end(*this, true);  // End closes both directions: the peer has forgotten the id
}

void MuxSide::send_fin() {
  fin_sent_ = true;
  relay_->keep_half_closed();
  Tunnel& tunnel = *tunnel_;
  std::array<std::uint8_t, mux::kEndFrame> frame;
  mux::write_fin(frame, stream_);
  tunnel.send_frames(frame);
  if (tunnel_ == nullptr || !tunnel.fin_sent(stream_)) return;
  tunnel_ = nullptr;
  tunnel.unlist(*this);
  tunnel.pump();
}

void MuxSide::end_and_listen() {
  if (tunnel_ == nullptr || std::exchange(end_sent_, true)) return;
  std::array<std::uint8_t, mux::kEndFrame> frame;
  mux::write_end(frame, stream_, false);
  tunnel_->hold(stream_, true);
  tunnel_->send_frames(frame);
}

void MuxSide::abort() { end(true); }

void MuxSide::wind_down() {
  end(false);
  relay_->on_wound_down(*this);
}

void MuxSide::close() { end(false); }

void MuxSide::end(bool error) {
  if (tunnel_ == nullptr) return;
  Tunnel& tunnel = *std::exchange(tunnel_, nullptr);
  tunnel.unlist(*this);
  if (!end_sent_ || error) return tunnel.end_stream(stream_, error);
  tunnel.forget(stream_);
  tunnel.pump();
}

void MuxSide::on_stream_data(ConstSpan payload) {
  heard_at_ = tunnel_->loop_.now();
  if (dirty_at_ == kNowhere) {
    dirty_at_ = tunnel_->dirty_.size();
    tunnel_->dirty_.push_back(this);
  }
  relay_->on_data(*this, payload);
}

void MuxSide::on_stream_fin() {
  if (fin_sent_) tunnel_over();  // both ends have said so: no frame of ours may follow
  relay_->keep_half_closed();
  relay_->on_end(*this, false);
}

void MuxSide::on_stream_end(bool error) {
  tunnel_over();  // the session has forgotten the id: no frame of ours may follow
  if (error) {
    relay_->on_failed(*this, Error{Errc::closed, "the other end aborted the stream", {}});
  } else {
    relay_->on_end(*this, true);
  }
}

void MuxSide::tunnel_over() {
  Tunnel& tunnel = *std::exchange(tunnel_, nullptr);
  tunnel.unlist(*this);
}

bool MuxSide::has_room() {
  if (tunnel_ == nullptr || tunnel_->wire_.has_room()) return true;
  tunnel_->wait_for_room(*this);
  return false;
}

void MuxSide::resume() {
  if (tunnel_ != nullptr && tunnel_->over_limit_) tunnel_->loop_.defer(tunnel_->check_later_);
}

// --- Tunnel ----------------------------------------------------------------------------------------------------------

Tunnel::Tunnel(net::Loop& loop, BlockPool& blocks, layers::Stack stack, TunnelLimits limits)
    : loop_(loop),
      wire_(loop, blocks, stack.empty() ? layers::Stack(std::make_unique<layers::PlainLayer>()) : std::move(stack)),
      blocks_(blocks),
      limits_(limits),
      timer_([](void* self) { static_cast<Tunnel*>(self)->timer_fired(); }, this),
      behind_timer_([](void* self) { static_cast<Tunnel*>(self)->check_behind(); }, this),
      ending_timer_([](void* self) { static_cast<Tunnel*>(self)->end_those_due(); }, this),
      check_later_([](void* self) { static_cast<Tunnel*>(self)->check_behind(); }, this),
      over_later_(
          [](void* self) {
            auto* tunnel = static_cast<Tunnel*>(self);
            tunnel->on_tunnel_over(tunnel->why_over_);
          },
          this) {
  wire_.observe(this);
}

Tunnel::~Tunnel() = default;

void Tunnel::attach(std::unique_ptr<net::Stream> stream, Bytes unread) {
  wire_.attach(std::move(stream), std::move(unread));
  pump();
}

void Tunnel::pump() {
  if (dead_) return;
  const Bytes output = take_output();
  if (!output.empty()) send_own(output);
  if (dead_) return;
  const auto due = next_deadline();
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
  tick();
  if (!end_if_finished()) pump();
}

bool Tunnel::end_if_finished() {
  if (!finished()) return false;
  const reverse::TunnelEnd kind = end();
  const Error why{Errc::closed, "tunnel is over: " + std::string(reverse::name_of(kind)), {}};
  const bool orderly = kind != reverse::TunnelEnd::unresponsive && kind != reverse::TunnelEnd::fatal_frame;
  orderly ? leave(why) : die(why);
  return true;
}

std::unique_ptr<MuxSide> Tunnel::make_side(StreamId stream) {
  auto side = std::make_unique<MuxSide>(*this, stream);
  set_stream_user(stream, side.get());
  return side;
}

void Tunnel::send_frames(ConstSpan frames) {
  if (!dead_) send_own(frames);
}

/// Frames that no has_room() holds back: Opens, Ends, answers. A peer that provokes them without reading would have us
/// queue them for ever.
void Tunnel::send_own(ConstSpan frames) {
  wire_.send(frames);
  if (wire_.queued() > limits_.tunnel_buffer + kSpareUnsent) {
    die(Error{Errc::overload, "the other end takes nothing of what it makes us send", {}});
  }
}

void Tunnel::send_data(MuxSide& side, ConstSpan piece) {
  if (dead_) return;
  // Frames and chunks fit each other: k frames of 8 + n bytes make one 16 KiB chunk, sealed from where the bytes are.
  const std::size_t limit = max_data() + mux::kKeepHead;
  const std::size_t frames = (kChunkBytes + limit - 1) / limit;
  const std::size_t data_bytes = std::min(kChunkBytes / frames - mux::kKeepHead, max_data());
  constexpr std::size_t kMaxFrames = 8;
  std::array<std::array<std::uint8_t, mux::kKeepHead>, kMaxFrames> heads;
  std::array<ConstSpan, 2 * kMaxFrames> parts;
  while (!piece.empty()) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < std::min(frames, kMaxFrames) && !piece.empty(); ++i) {
      const ConstSpan data = piece.first(std::min(piece.size(), data_bytes));
      mux::write_keep_head(heads[i], side.stream_, data.size());
      parts[count++] = heads[i];
      parts[count++] = data;
      piece = piece.subspan(data.size());
    }
    wire_.send(std::span(parts).first(count));
  }
}

void Tunnel::on_plain(MutSpan bytes) {
  if (dead_) return;
  unchecked_ += bytes.size();
  const auto fed = feed(bytes);
  if (!fed) die(explain(fed.error()).in("mux frame"));
}

void Tunnel::on_batch_end() {
  // Sides told of their batch may end themselves or others: take the list out, and skip what has left it.
  for (std::size_t i = 0; i < dirty_.size(); ++i) {
    MuxSide* side = std::exchange(dirty_[i], nullptr);
    if (side == nullptr) continue;
    side->dirty_at_ = MuxSide::kNowhere;
    side->relay_->on_batch_end(*side);
    if (side->tunnel_ != nullptr && side->consumer().queued() > 0) add_behind(*side);
  }
  dirty_.clear();
  // The clock alone would look too late: a quarter of a second can bring hundreds of MiB.
  const std::size_t step = std::min(limits_.stream_buffer, limits_.tunnel_buffer) / 8;
  if (unchecked_ >= step && !behind_.empty()) check_behind();
  if (dead_ || end_if_finished()) return;
  pump();
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

bool Tunnel::send_datagram(StreamId stream, ConstSpan datagram, const Target* address) {
  if (dead_ || datagram.empty() || datagram.size() > max_datagram() || wire_.queued() > kMostUnsent) return false;
  std::array<std::uint8_t, mux::kMaxHead> head;
  std::size_t head_bytes = mux::kKeepHead;
  if (address != nullptr && packet_addresses()) {
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

void Tunnel::on_fin(StreamId, void* user) {
  if (user != nullptr) static_cast<StreamUser*>(user)->on_stream_fin();
}

void Tunnel::end_soon(MuxSide& side) {
  ending_.push_back({loop_.now() + MuxSide::kSign, side.stream_});
  hold(side.stream_, false);
  if (!ending_timer_.armed()) loop_.arm_at(ending_timer_, ending_.front().due);
}

void Tunnel::end_those_due() {
  while (!ending_.empty() && ending_.front().due <= loop_.now()) {
    const StreamId stream = ending_.front().stream;
    ending_.pop_front();
    if (dead_) continue;
    if (void* const user = user_of(stream)) static_cast<StreamUser*>(user)->on_end_due();
  }
  if (!ending_.empty()) loop_.arm_at(ending_timer_, ending_.front().due);
}

void Tunnel::on_wire_end() { leaving_ ? gone() : die(Error{Errc::closed, "the other end closed the tunnel", {}}); }

void Tunnel::on_wire_failed(Error why) { leaving_ ? gone() : die(std::move(why).in("tunnel")); }

void Tunnel::on_wire_room() {
  // One after the other, in the order they were stopped: each reads once. Who fills the queue again waits again, behind
  // the others.
  while (first_waiting_ != nullptr && wire_.has_room()) {
    MuxSide& side = *first_waiting_;
    stop_waiting(side);
    side.relay_->on_room(side);
  }
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

void Tunnel::add_behind(MuxSide& side) {
  if (side.behind_at_ != MuxSide::kNowhere) return;
  side.behind_at_ = behind_.size();
  side.seen_delivered_ = side.consumer().delivered();
  side.progress_at_ = loop_.now();
  behind_.push_back(&side);
  if (!behind_timer_.armed()) loop_.arm(behind_timer_, kBehindCheck);
}

void Tunnel::remove_behind(MuxSide& side) {
  if (side.behind_at_ == MuxSide::kNowhere) return;
  MuxSide* last = behind_.back();
  last->behind_at_ = side.behind_at_;
  behind_[side.behind_at_] = last;
  behind_.pop_back();
  side.behind_at_ = MuxSide::kNowhere;
}

void Tunnel::check_behind() {
  // spec/mux-cool.md 7: a dead consumer is reset alone, a slow one pushes back on its tunnel and is never reset.
  if (dead_) return;
  unchecked_ = 0;
  const TimePoint now = loop_.now();
  struct Longest {
    MuxSide* side = nullptr;
    std::size_t queued = 0;
    void look_at(MuxSide& other, std::size_t bytes) {
      if (side == nullptr || bytes > queued) *this = {&other, bytes};
    }
  };
  const auto stands = [&](const MuxSide& side) { return now - side.progress_at_ >= limits_.stall; };
  Longest longest;   // answers for the tunnel's limit, and the process's
  Longest standing;  // of those beyond their own limit, and without progress
  std::size_t total = 0;
  bool over = false;
  for (std::size_t i = 0; i < behind_.size();) {
    MuxSide& side = *behind_[i];
    const std::size_t queued = side.consumer().queued();
    if (queued == 0) {
      remove_behind(side);  // another one has taken its place
      continue;
    }
    ++i;
    const std::uint64_t delivered = side.consumer().delivered();
    if (std::exchange(side.seen_delivered_, delivered) != delivered) side.progress_at_ = now;
    total += queued;
    longest.look_at(side, queued);
    if (queued <= limits_.stream_buffer) continue;
    over = true;
    if (stands(side)) standing.look_at(side, queued);
  }
  if (longest.side != nullptr && (total > limits_.tunnel_buffer || blocks_.over_limit())) {
    over = true;
    if (standing.side == nullptr && stands(*longest.side)) standing = longest;
  }
  if (!behind_.empty() && !behind_timer_.armed()) loop_.arm(behind_timer_, kBehindCheck);
  set_over_limit(over);
  if (standing.side == nullptr || dead_) return;
  log_event(log::Level::warning, "tunnel", "stalled stream was reset", kv("stream", standing.side->stream_.value),
            kv("queued_bytes", standing.queued));
  standing.side->relay_->abort(Error{Errc::timeout, "the consumer took nothing for too long", {}});
}

void Tunnel::set_over_limit(bool over) {
  if (over_limit_ == over) return;
  over_limit_ = over;
  wire_.set_reading(!over);
  on_reading_changed(!over);
  pump();
}

void Tunnel::die(const Error& why) {
  if (std::exchange(dead_, true)) return;
  why_over_ = why;
  abort_streams();
  gone();
}

/// Carries nothing more, but what was said is delivered: Ends, and the last bytes of streams that are over.
void Tunnel::leave(const Error& why) {
  if (dead_) return;
  if (const Bytes last = take_output(); !last.empty()) wire_.send(last);
  dead_ = leaving_ = true;
  why_over_ = why;
  behind_timer_.disarm();
  abort_streams();
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

}  // namespace ebb::relay
