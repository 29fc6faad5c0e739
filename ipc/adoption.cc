// The child's side of adoption: what the end of the supervisor means, and how the next one gets in.
// Source: PROTOCOL.md, adoption.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "ipc/child.h"

namespace ebb::ipc {
namespace {

constexpr Duration kAcceptAgain = std::chrono::milliseconds(100);  // after running out of descriptors
constexpr Duration kRefsRetry = std::chrono::milliseconds(5);      // too many descriptors in flight: see Channel

void sooner(std::optional<TimePoint>& a, TimePoint b) { a = a ? std::min(*a, b) : b; }

}  // namespace

int ChildControl::adoption_fd() const { return state_ == State::orphaned && !accept_again_at_ ? adoption_.get() : -1; }

void ChildControl::link_over(ReadEnd end) {
  const std::string fault(name_of(channel_->fault()));
  retired_ = std::move(channel_);
  if (broken_) return;
  if (state_ == State::greeted) return refuse_adopter(end == ReadEnd::fault ? fault : "it said nothing and left");
  if (end == ReadEnd::fault) return broken(Error{Errc::protocol, "the supervisor sent a bad message: " + fault, "ctl"});
  if (!committed_ || !adoption_) {
    state_ = State::ended;
    adoption_.reset();  // nobody shall wait there
    return handler_.on_drain({DrainOrder::Why::supervisor_gone, std::nullopt, std::chrono::milliseconds(0)});
  }
  state_ = State::orphaned;
  query_.clear();
  orphaned_since_ = now_();
  remind_at_ = orphaned_since_ + kRemindEvery;
  handler_.on_orphaned(Duration(0));
}

void ChildControl::refuse_adopter(std::string why) {
  state_ = State::orphaned;
  handler_.on_adopter_refused(Error{Errc::protocol, std::move(why), "adoption socket"});
}

void ChildControl::on_adoption_readable() {
  retired_.reset();
  while (adoption_fd() >= 0) {
    Fd end(::accept4(adoption_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!end) {
      switch (errno) {
        case EAGAIN: return;
        case EINTR:
        case ECONNABORTED: continue;
        default: accept_again_at_ = now_() + kAcceptAgain; return;
      }
    }
    const auto uid = peer_uid(end.get());
    if (!uid || (*uid != 0 && *uid != ::geteuid())) {
      refuse_adopter("somebody of another user");
      continue;
    }
    widen_send_buffer(end.get());
    Channel::Options options;
    options.max_queued_fds = kMaxParts * kMaxSlots + 8;  // ADOPT_STATE goes whole or not at all
    channel_ = std::make_unique<Channel>(std::move(end), Link::adoption, self_, Role::supervisor, std::move(options));
    state_ = State::greeted;
    adopt_by_ = now_() + kAdoptWithin;
  }
}

std::optional<TimePoint> ChildControl::next_deadline() const {
  std::optional<TimePoint> due;
  if (orphaned()) due = remind_at_;
  if (state_ == State::greeted) sooner(due, adopt_by_);
  if (state_ == State::orphaned && accept_again_at_) sooner(due, *accept_again_at_);
  if (channel_ && channel_->wants_retry()) sooner(due, now_() + kRefsRetry);
  return due;
}

void ChildControl::on_deadline() {
  retired_.reset();
  const TimePoint now = now_();
  if (channel_ && channel_->wants_retry()) channel_->on_writable();
  if (accept_again_at_ && *accept_again_at_ <= now) accept_again_at_.reset();
  if (state_ == State::greeted && adopt_by_ <= now) {
    retired_ = std::move(channel_);
    refuse_adopter("it did not say ADOPT in time");
  }
  if (orphaned() && remind_at_ <= now) {
    remind_at_ = now + kRemindEvery;
    handler_.on_orphaned(now - orphaned_since_);
  }
}

/// ADOPT. The instance it names is not looked at: the socket is in the instance's own directory.
void ChildControl::adopted() {
  if (!send_adopt_state()) return channel_->close();  // link_over() follows, and the next one may try
  state_ = State::attached;
  handler_.on_adopted();
  if (!unsent_.empty()) channel_->send_records(Type::stats, std::span<const Stat>(unsent_));
  unsent_.clear();
}

/// Up to 64 slots a part; the memfds go with the first.
bool ChildControl::send_adopt_state() {
  const Adoptable own = handler_.adoptable();
  std::span<const HeldSlot> left(own.slots);
  left = left.first(std::min(left.size(), kMaxParts * kMaxSlots));
  bool first = true;
  do {
    const auto part = left.first(std::min(left.size(), kMaxSlots));
    left = left.subspan(part.size());
    AdoptState state{.gen = gen_, .role = static_cast<std::uint32_t>(self_), .conns = own.connections};
    state.n = static_cast<std::uint32_t>(part.size());
    if (snapshot_) state.config_sha256 = snapshot_->sha256;
    std::vector<int> fds;
    Bytes body(sizeof state + part.size() * sizeof(AdoptSlot));
    for (std::size_t i = 0; i < part.size(); ++i) {
      std::memcpy(body.data() + sizeof state + i * sizeof(AdoptSlot), &part[i].slot, sizeof(AdoptSlot));
      fds.push_back(part[i].fd);
    }
    if (std::exchange(first, false)) {
      for (const auto& [kind, memfd] : memory_) {
        state.shm_kinds |= shm_bit(kind);
        fds.push_back(memfd.get());
      }
      if (snapshot_) {  // the highest bit, so it is the last
        state.shm_kinds |= shm_bit(ShmKind::snapshot);
        fds.push_back(snapshot_->memfd.get());
      }
    }
    std::memcpy(body.data(), &state, sizeof state);
    const Sent sent = channel_->send(Type::adopt_state, body, fds, static_cast<std::uint8_t>(part.size()),
                                     left.empty() ? std::uint8_t{0} : flags::more);
    if (sent != Sent::sent && sent != Sent::queued) return false;
  } while (!left.empty());
  return true;
}

}  // namespace ebb::ipc
