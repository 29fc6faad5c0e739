#include "worker/tunnel/mux_side.h"

#include <algorithm>
#include <array>
#include <utility>

#include "worker/tunnel/tunnel.h"

namespace ebb::tunnel {

MuxSide::MuxSide(Tunnel& tunnel, StreamId stream, SourceLedger::Key source)
    : tunnel_(&tunnel), stream_(stream), source_(source) {}

MuxSide::~MuxSide() { close(); }

// --- towards the peer ------------------------------------------------------------------------------------------------

void MuxSide::send(ConstSpan piece) {
  if (tunnel_ == nullptr || fin_sent_ || end_sent_ || end_wanted_) return;
  const std::uint64_t credit = held_back_.empty() ? tunnel_->engine().credit(stream_) : 0;
  if (credit < piece.size()) {
    const auto now = static_cast<std::size_t>(credit);
    held_back_.insert(held_back_.end(), piece.begin() + static_cast<std::ptrdiff_t>(now), piece.end());
    piece = piece.first(now);
    if (piece.empty()) return;
  }
  tunnel_->engine().spent(stream_, piece.size());
  tunnel_->send_data(stream_, piece);
  if (tunnel_ == nullptr) return;
  if (tunnel_->turn_.side == this) tunnel_->turn_.used += piece.size();
  sent_until_ = tunnel_->wire_.accepted();
  if (consumer().wants_progress()) tunnel_->tell_progress(stream_, sent_until_);
}

void MuxSide::send_held_back() {
  while (!held_back_.empty() && tunnel_ != nullptr) {
    const std::uint64_t credit = tunnel_->engine().credit(stream_);
    const std::size_t now = static_cast<std::size_t>(std::min<std::uint64_t>(held_back_.size(), credit));
    if (now == 0) return;
    tunnel_->engine().spent(stream_, now);
    tunnel_->send_data(stream_, ConstSpan(held_back_).first(now));
    sent_until_ = tunnel_->wire_.accepted();
    held_back_.erase(held_back_.begin(), held_back_.begin() + static_cast<std::ptrdiff_t>(now));
  }
  held_back_ = {};
}

/// What has to leave before our last bytes have left: the queue is one for all streams.
std::size_t MuxSide::queued() const {
  if (tunnel_ == nullptr) return 0;
  const std::uint64_t written = tunnel_->wire_.written();
  return held_back_.size() + (sent_until_ > written ? static_cast<std::size_t>(sent_until_ - written) : 0);
}

std::uint64_t MuxSide::delivered() const { return tunnel_ != nullptr ? tunnel_->wire_.written() : sent_until_; }

std::size_t MuxSide::room() { return tunnel_ != nullptr ? tunnel_->ask(*this) : kEverything; }

std::uint64_t MuxSide::credit() const {
  if (tunnel_ == nullptr) return kNoLimit;
  return held_back_.empty() ? tunnel_->engine().credit(stream_) : 0;
}

void MuxSide::flush() {
  if (tunnel_ != nullptr) tunnel_->turn_over(*this);
}

void MuxSide::on_stream_credit() {
  report_consumed();
  send_held_back();
  if (tunnel_ == nullptr || !held_back_.empty()) return;
  if (winding_) {
    end();
    return relay_->on_wound_down(*this);
  }
  if (std::exchange(end_wanted_, false)) return send_end();
  // It turned out to be our own peer, who can be told that there is no more.
  if (quiet_ && tunnel_->engine().half_close(stream_) == reverse::HalfClose::fin) {
    quiet_ = false;
    return send_fin();
  }
  tunnel_->credited(*this);
}

// --- ends ------------------------------------------------------------------------------------------------------------

void MuxSide::send_end() {
  if (tunnel_ == nullptr || fin_sent_ || end_sent_) return;
  if (!held_back_.empty()) {
    end_wanted_ = true;
    relay_->keep_half_closed();  // only our own peers give credit, and they take a FIN
    return;
  }
  using reverse::HalfClose;
  const HalfClose how = tunnel_->engine().half_close(stream_);
  if (how == HalfClose::fin) return send_fin();
  if (how == HalfClose::listen) {
    relay_->set_patience(consumer(), kAnswerPatience);
    // A visitor who is gone altogether resets what still comes; only End + Error with no End before it stops a stock
    // bridge's download then. So where an answer flows, End waits for that sign.
    return tunnel_->loop_.now() - heard_at_ < kFlowing ? tunnel_->end_later(stream_, kSign) : end_and_listen();
  }
  const Duration quiet = tunnel_->owner_.quiet_before_end();
  if (how == HalfClose::quiet && quiet > Duration(0)) {
    relay_->set_patience(consumer(), quiet);
    quiet_ = true;
    return tunnel_->hold(stream_, false);
  }
  end();
  relay_->on_end(*this, true);  // End closes both directions: the peer has forgotten the id
}

void MuxSide::send_fin() {
  fin_sent_ = true;
  relay_->keep_half_closed();
  if (tunnel_->send_fin(stream_)) tunnel_over();
}

void MuxSide::end_and_listen() {
  if (tunnel_ == nullptr || std::exchange(end_sent_, true)) return;
  std::array<std::uint8_t, mux::kEndFrame> frame;
  mux::write_end(frame, stream_, false);
  tunnel_->hold(stream_, true);
  tunnel_->send_frames(frame);
}

void MuxSide::abort(const Error& why) {
  if (tunnel_ == nullptr) return;
  Tunnel& tunnel = *tunnel_;
  tunnel_over();
  tunnel.abort_stream(stream_, reverse::abort_of(why));
}

void MuxSide::wind_down() {
  if (tunnel_ != nullptr && !held_back_.empty() && !fin_sent_) {
    winding_ = true;
    return;
  }
  end();
  relay_->on_wound_down(*this);
}

void MuxSide::close() { end(); }

void MuxSide::end() {
  if (tunnel_ == nullptr) return;
  Tunnel& tunnel = *tunnel_;
  tunnel_over();
  if (!end_sent_) return tunnel.end_stream(stream_);
  tunnel.forget(stream_);
  tunnel.pump();
}

void MuxSide::tunnel_over() {
  Tunnel& tunnel = *std::exchange(tunnel_, nullptr);
  tunnel.unlist(*this);
}

// --- from the peer ---------------------------------------------------------------------------------------------------

void MuxSide::on_stream_data(ConstSpan payload) {
  heard_at_ = tunnel_->loop_.now();
  received_ += payload.size();
  if (dirty_at_ == kNowhere) {
    dirty_at_ = tunnel_->dirty_.size();
    tunnel_->dirty_.push_back(this);
  }
  relay_->on_data(*this, payload);
}

void MuxSide::on_batch_end() {
  relay_->on_batch_end(*this);
  if (tunnel_ == nullptr) return;
  report_consumed();
}

/// Credit follows what the consumer passes on, or who holds too much is known by it. A side that seals counts a little
/// more than it was given, so that the last bytes are told when all have gone.
void MuxSide::report_consumed() {
  if (tunnel_ == nullptr) return;
  const std::size_t queued = consumer().queued();
  if (tunnel_->engine().holds_peer_to_credit(stream_)) {
    if (lagging_) tunnel_->consumer_leaves(std::exchange(lagging_, nullptr));
  } else if (lagging_ || queued > 0) {
    if (!lagging_) lagging_ = std::make_unique<Lagging>(*this, source_);
    tunnel_->consumer_holds(*lagging_, queued, consumer().delivered());
  }
  if (tunnel_ == nullptr || received_ == consumed_) return;
  const std::uint64_t waiting = std::min<std::uint64_t>(queued, received_ - consumed_);
  const std::uint64_t taken = received_ - consumed_ - waiting;
  if (taken == 0) return;
  consumed_ += taken;
  tunnel_->consumed(stream_, taken);
}

void MuxSide::on_stream_fin() {
  if (fin_sent_) tunnel_over();  // both ends have said so: no frame of ours may follow
  relay_->keep_half_closed();
  relay_->on_end(*this, false);
}

void MuxSide::on_stream_end(bool error, const reverse::Abort* why) {
  tunnel_over();  // the session has forgotten the id: no frame of ours may follow
  if (!error) return relay_->on_end(*this, true);
  relay_->on_failed(
      *this, why != nullptr ? reverse::error_of(*why) : Error{Errc::protocol, "the other end aborted the stream", {}});
}

}  // namespace ebb::tunnel
