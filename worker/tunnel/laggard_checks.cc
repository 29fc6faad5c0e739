// Consumers of a peer without credit that take less than comes: what they hold counts, a dead one is reset, a slow one
// stops the tunnel's reads. Source: common/protocol/mux/PROTOCOL.md, slow consumers.
#include <utility>

#include "common/base/log.h"
#include "worker/tunnel/tunnel.h"

namespace ebb::tunnel {
namespace {

constexpr auto kBehindCheck = std::chrono::milliseconds(100);

}  // namespace

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
  engine_->set_reading(!over, loop_.now());
  owner_.on_reading_changed(!over);
  pump();
}

}  // namespace ebb::tunnel
