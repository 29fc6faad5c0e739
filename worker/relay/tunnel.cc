#include "worker/relay/tunnel.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "common/base/log.h"

namespace ebb::relay {
namespace {

constexpr auto kLagCheck = std::chrono::milliseconds(250);
constexpr std::size_t kChunkBytes = 16 * 1024;  // plaintext of one sealed chunk: frames are cut to fill it exactly

}  // namespace

// --- MuxSide ---------------------------------------------------------------------------------------------------------

MuxSide::MuxSide(Tunnel& tunnel, StreamId stream, bool hold_half_close)
    : tunnel_(&tunnel), stream_(stream), hold_half_close_(hold_half_close) {}

MuxSide::~MuxSide() { close(); }

void MuxSide::send(ConstSpan piece) {
  if (tunnel_ == nullptr) return;
  sent_ += piece.size();
  tunnel_->send_data(*this, piece);
}

void MuxSide::send_end() {
  if (hold_half_close_ || tunnel_ == nullptr) return;
  end(false);
  relay_->on_end(*this, true);  // End closes both directions: the peer has forgotten the id
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
  std::array<std::uint8_t, mux::kEndFrame> frame;
  mux::write_end(frame, stream_, error);
  tunnel.send_frames(frame);
  tunnel.forget(stream_);
  tunnel.pump();
}

bool MuxSide::has_room() {
  if (tunnel_ == nullptr || tunnel_->wire_.has_room()) return true;
  tunnel_->wait_for_room(*this);
  return false;
}

void MuxSide::pause() {
  if (tunnel_ != nullptr) tunnel_->add_lagging(*this);
}

void MuxSide::resume() {
  if (tunnel_ != nullptr) tunnel_->remove_lagging(*this);
}

// --- Tunnel ----------------------------------------------------------------------------------------------------------

Tunnel::Tunnel(net::Loop& loop, BlockPool& blocks, std::unique_ptr<Codec> codec, TunnelLimits limits)
    : loop_(loop),
      wire_(loop, blocks, codec ? std::move(codec) : std::make_unique<PlainCodec>()),
      limits_(limits),
      timer_([](void* self) { static_cast<Tunnel*>(self)->timer_fired(); }, this),
      lag_timer_([](void* self) { static_cast<Tunnel*>(self)->check_lagging(); }, this),
      over_later_(
          [](void* self) {
            auto* tunnel = static_cast<Tunnel*>(self);
            tunnel->on_tunnel_over(tunnel->why_over_);
          },
          this) {
  wire_.observe(this);
}

Tunnel::~Tunnel() {
  // Streams must be gone: die() or an empty tunnel. A side that outlives its tunnel would write into it.
  for (auto* side : {&dirty_, &waiting_, &lagging_}) side->clear();
}

void Tunnel::attach(std::unique_ptr<net::Stream> stream, Bytes unread) {
  wire_.attach(std::move(stream), std::move(unread));
  pump();
}

void Tunnel::pump() {
  if (dead_) return;
  const Bytes output = take_output();
  if (!output.empty()) wire_.send(output);
  const auto due = next_deadline();
  if (due == TimePoint::max()) return timer_.disarm();
  // Deadlines move away with every batch: the timer is left alone, and looks again when it fires. `due` may be
  // TimePoint::min(): never subtract from it.
  const TimePoint now = loop_.now();
  const TimePoint at = std::max(due, now);
  if (!timer_.armed() || timer_.due() > at) loop_.arm(timer_, at - now);
}

void Tunnel::timer_fired() {
  if (dead_) return;
  tick();
  if (finished()) return die(Error{Errc::closed, "tunnel is over", {}});
  pump();
}

std::unique_ptr<MuxSide> Tunnel::make_side(StreamId stream, bool hold_half_close) {
  auto side = std::make_unique<MuxSide>(*this, stream, hold_half_close);
  set_user(stream, side.get());
  return side;
}

void Tunnel::send_frames(ConstSpan frames) {
  if (!dead_) wire_.send(frames);
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
  const auto fed = feed(bytes);
  if (!fed) die(explain(fed.error()).in("mux frame"));
}

void Tunnel::on_batch_end() {
  // Sides told of their batch may end themselves or others: take the list out, and skip what has left it.
  for (std::size_t i = 0; i < dirty_.size(); ++i) {
    MuxSide* side = std::exchange(dirty_[i], nullptr);
    if (side == nullptr) continue;
    side->dirty_ = false;
    side->relay_->on_batch_end(*side);
  }
  dirty_.clear();
  if (dead_) return;
  if (finished()) return die(Error{Errc::closed, "tunnel is over", {}});
  pump();
}

void Tunnel::on_data(StreamId, void* user, ConstSpan piece) {
  auto* side = static_cast<MuxSide*>(user);
  if (side == nullptr) return;
  if (!side->dirty_) {
    side->dirty_ = true;
    dirty_.push_back(side);
  }
  side->relay_->on_data(*side, piece);
}

void Tunnel::on_end(StreamId, void* user, bool error) {
  auto* side = static_cast<MuxSide*>(user);
  if (side == nullptr) return;
  side->tunnel_ = nullptr;  // the session has forgotten the id: no frame of ours may follow
  unlist(*side);
  if (error) {
    side->relay_->on_failed(*side, Error{Errc::closed, "the other end aborted the stream", {}});
  } else {
    side->relay_->on_end(*side, true);
  }
}

void Tunnel::on_wire_end() { die(Error{Errc::closed, "the other end closed the tunnel", {}}); }

void Tunnel::on_wire_failed(Error why) { die(std::move(why).in("tunnel")); }

void Tunnel::on_wire_room() {
  // One after the other, in the order they were stopped: each reads once, until there is no room again.
  std::vector<MuxSide*> turn = std::exchange(waiting_, {});
  for (std::size_t i = 0; i < turn.size(); ++i) {
    if (!turn[i]->waiting_) continue;  // ended in the meantime; sides are destroyed by deferred work, never under us
    if (!dead_ && !wire_.has_room()) {
      std::vector<MuxSide*> rest;
      std::copy_if(turn.begin() + static_cast<std::ptrdiff_t>(i), turn.end(), std::back_inserter(rest),
                   [](const MuxSide* side) { return side->waiting_; });
      waiting_.insert(waiting_.begin(), rest.begin(), rest.end());
      return;
    }
    turn[i]->waiting_ = false;
    turn[i]->relay_->on_room(*turn[i]);
  }
}

void Tunnel::wait_for_room(MuxSide& side) {
  if (side.waiting_) return;
  side.waiting_ = true;
  waiting_.push_back(&side);
}

void Tunnel::unlist(MuxSide& side) {
  const auto drop = [&side](std::vector<MuxSide*>& list) { std::erase(list, &side); };
  if (std::exchange(side.waiting_, false)) drop(waiting_);
  if (std::exchange(side.dirty_, false))
    std::replace(dirty_.begin(), dirty_.end(), &side, static_cast<MuxSide*>(nullptr));
  if (std::exchange(side.lagging_, false)) {
    drop(lagging_);
    check_lagging();
  }
}

void Tunnel::add_lagging(MuxSide& side) {
  if (side.lagging_) return;
  side.lagging_ = true;
  side.seen_delivered_ = side.consumer().delivered();
  side.progress_at_ = loop_.now();
  lagging_.push_back(&side);
  check_lagging();
}

void Tunnel::remove_lagging(MuxSide& side) {
  if (!std::exchange(side.lagging_, false)) return;
  std::erase(lagging_, &side);
  check_lagging();
}

void Tunnel::check_lagging() {
  // spec/mux-cool.md 7: a dead consumer is reset alone, a slow one pushes back on its tunnel and is never reset.
  if (dead_) return;
  std::size_t total = 0;
  MuxSide* longest = nullptr;
  bool over = false;
  for (MuxSide* side : lagging_) {
    const std::size_t queued = side->consumer().queued();
    const std::uint64_t delivered = side->consumer().delivered();
    if (delivered != side->seen_delivered_) {
      side->seen_delivered_ = delivered;
      side->progress_at_ = loop_.now();
    }
    total += queued;
    over = over || queued > limits_.stream_buffer;
    if (longest == nullptr || queued > longest->consumer().queued()) longest = side;
  }
  over = over || total > limits_.tunnel_buffer;
  set_over_limit(over);
  if (over && longest != nullptr && loop_.now() - longest->progress_at_ >= limits_.stall) {
    log_event(log::Level::warning, "tunnel", "stalled stream was reset", kv("stream", longest->stream_.value),
              kv("queued_bytes", longest->consumer().queued()));
    longest->relay_->abort(Error{Errc::timeout, "the consumer took nothing for too long", {}});
    return;  // abort() unlisted it, which came back here
  }
  if (lagging_.empty()) {
    lag_timer_.disarm();
  } else if (!lag_timer_.armed()) {
    loop_.arm(lag_timer_, kLagCheck);
  }
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
  timer_.disarm();
  lag_timer_.disarm();
  abort_streams();
  wire_.close();
  loop_.defer(over_later_);
}

}  // namespace ebb::relay
