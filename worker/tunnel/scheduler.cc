#include "worker/tunnel/scheduler.h"

#include <algorithm>
#include <cassert>

namespace ebb::tunnel {

Source::~Source() {
  if (home_ != nullptr) home_->leave(*this);
}

Scheduler::~Scheduler() { assert(fresh_.first == nullptr && turns_.first == nullptr && no_credit_ == 0); }

void Scheduler::set_quantum(std::size_t bytes) { quantum_ = std::clamp(bytes, kMinQuantum, kMaxQuantum); }

void Scheduler::append(Source& source, Place place, bool dry) {
  source.home_ = this;
  source.place_ = place;
  source.dry_ = dry;
  if (!dry) ++ready_;
  List& list = list_of(source);
  source.prev_ = list.last;
  source.next_ = nullptr;
  (list.last != nullptr ? list.last->next_ : list.first) = &source;
  list.last = &source;
}

/// Out of wherever it is.
void Scheduler::unlink(Source& source) {
  if (source.place_ == Place::no_credit) {
    --no_credit_;
  } else if (source.place_ != Place::out) {
    if (!source.dry_) --ready_;
    List& list = list_of(source);
    (source.prev_ != nullptr ? source.prev_->next_ : list.first) = source.next_;
    (source.next_ != nullptr ? source.next_->prev_ : list.last) = source.prev_;
  }
  source.prev_ = source.next_ = nullptr;
  source.home_ = nullptr;
  source.place_ = Place::out;
  source.dry_ = false;
}

void Scheduler::enter(Source& source) {
  assert(source.home_ == nullptr || source.home_ == this);
  if (source.place_ == Place::out) {
    source.left_ = quantum_;
    append(source, Place::fresh, false);
  } else if (source.dry_) {
    source.dry_ = false;
    ++ready_;
  }
}

void Scheduler::credited(Source& source) {
  if (source.home_ != this || source.place_ != Place::no_credit) return;
  unlink(source);
  append(source, Place::turn, false);  // no newcomer: what it could read without credit it has read
}

void Scheduler::leave(Source& source) {
  if (source.home_ != this) return;
  unlink(source);
  source.left_ = 0;
}

std::optional<Grant> Scheduler::next(std::size_t room) {
  if (room == 0) return std::nullopt;
  // Each step takes a source out, gives it a turn, or ends.
  while (Source* source = fresh_.first != nullptr ? fresh_.first : turns_.first) {
    if (source->dry_) {
      leave(*source);
      continue;
    }
    const std::uint64_t credit = source->credit();
    if (credit == 0) {
      unlink(*source);
      source->home_ = this;
      source->place_ = Place::no_credit;
      ++no_credit_;
      continue;
    }
    // A scrap of a turn is not worth a frame: it is added to the next one.
    if (source->left_ < quantum_ / 8) {
      source->left_ += quantum_;
      unlink(*source);
      append(*source, Place::turn, false);
      continue;
    }
    return Grant{source, static_cast<std::size_t>(std::min<std::uint64_t>({credit, source->left_, room}))};
  }
  return std::nullopt;
}

void Scheduler::used(Source& source, std::size_t bytes, bool more) {
  if (source.home_ != this) return;
  source.left_ -= std::min(bytes, source.left_);
  if (more) return;
  const bool was_fresh = source.place_ == Place::fresh;
  if (!was_fresh) return leave(source);
  unlink(source);
  append(source, Place::turn, true);
}

}  // namespace ebb::tunnel
