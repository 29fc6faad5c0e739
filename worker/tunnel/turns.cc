// Whose turn it is to send, and how much: the scheduler pulls, from sockets, what the path of the tunnel has room for.
#include <algorithm>
#include <utility>

#include "worker/tunnel/tunnel.h"

namespace ebb::tunnel {
namespace {

constexpr std::size_t kMostQueued = relay::Wire::kHigh;  // above, nobody reads

}  // namespace

/// Before a read of a side's socket: how much of it may go out now. Nothing: its turn will come.
std::size_t Tunnel::ask(MuxSide& side) {
  if (dead_) return relay::Side::kEverything;
  if (turn_.side == &side) return turn_.bytes;
  scheduler_.enter(side);
  if (serving_) return 0;
  const auto grant = scheduler_.next(room());
  if (!grant || grant->source != &side) {
    serve_soon();
    return 0;
  }
  turn_ = {&side, grant->bytes, 0};
  return grant->bytes;
}

/// What was read in its turn has come.
void Tunnel::turn_over(MuxSide& side) {
  if (turn_.side != &side) return;
  const Turn turn = std::exchange(turn_, {});
  scheduler_.used(side, std::min(turn.used, turn.bytes), turn.used >= turn.bytes);
  if (!serving_) serve_soon();
}

void Tunnel::credited(MuxSide& side) {
  scheduler_.credited(side);
  serve_soon();
}

/// On a turn of its own: whoever reads has the loop's buffer in use.
void Tunnel::serve_soon() {
  if (!dead_ && !scheduler_.idle() && !room_timer_.armed()) loop_.defer(serve_later_);
}

std::size_t Tunnel::room() {
  if (wire_.pressed()) return 0;
  const TimePoint now = loop_.now();
  if (has_path_ && wire_.stream() != nullptr && pipe_.wants_sample(now)) {
    const auto path = wire_.stream()->path();
    has_path_ = path.has_value();
    if (path) {
      pipe_.sample(*path, now);
      scheduler_.set_quantum(pipe_.quantum());
    }
  }
  const std::size_t most = has_path_ ? std::min(pipe_.room(), kMostQueued) : kMostQueued;
  const std::size_t left = most > wire_.queued() ? most - wire_.queued() : 0;
  // A scrap is not worth a read while what is under way will make more of it; more than that is good for a whole turn,
  // 2 ms of the link too many at most. Small reads cost more than anything else here.
  const std::size_t turn = scheduler_.quantum();
  const bool under_way = wire_.queued() > 0 || pipe_.in_kernel() > 0;
  return left < turn / 8 && under_way ? 0 : std::max(left, turn);
}

void Tunnel::serve() {
  if (serving_ || dead_) return;
  serving_ = true;
  while (!dead_) {
    const auto grant = scheduler_.next(room());
    if (!grant) break;
    auto& side = static_cast<MuxSide&>(*grant->source);
    turn_ = {&side, grant->bytes, 0};
    side.relay_->on_room(side);
    if (turn_.side != &side) continue;
    turn_ = {};  // there was nothing to read
    scheduler_.used(side, 0, false);
  }
  serving_ = false;
  // What is queued tells of its progress; acknowledgements have to be looked for.
  if (!dead_ && !scheduler_.idle() && wire_.queued() == 0) loop_.arm(room_timer_, pipe_.retry_in());
}

void Tunnel::unlist(MuxSide& side) {
  scheduler_.leave(side);
  if (turn_.side == &side) turn_ = {};
  if (side.dirty_at_ != MuxSide::kNowhere) dirty_[std::exchange(side.dirty_at_, MuxSide::kNowhere)] = nullptr;
  if (!side.lagging_) return;
  laggards_.leave(*side.lagging_);
  follow_laggards();
}

void Tunnel::tell_progress(StreamId stream, std::uint64_t sent_until) {
  if (!progress_due_.empty() && progress_due_.back().stream == stream) {
    progress_due_.back().until = sent_until;
  } else {
    progress_due_.push_back({sent_until, stream});
  }
}

void Tunnel::on_wire_progress() {
  pipe_.written(static_cast<std::size_t>(wire_.written() - pipe_seen_));
  pipe_seen_ = wire_.written();
  serve_soon();
  while (!progress_due_.empty() && progress_due_.front().until <= wire_.written()) {
    const StreamId stream = progress_due_.front().stream;
    progress_due_.pop_front();
    auto* user = dead_ ? nullptr : static_cast<StreamUser*>(engine_->user(stream));
    if (user != nullptr) user->on_stream_sent();
  }
}

}  // namespace ebb::tunnel
