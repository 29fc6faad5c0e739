// The client sides of relays whose clients said who they are: whoever is shown out can be found.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "worker/relay/socket_side.h"

namespace ebb::relay {

template <class Who>
class Listed;

/// Must outlive every side on its list: the loop's relays.
template <class Who>
class Roster {
 public:
  /// Resets the connections of everybody who is not `allowed`, who is asked about once each; returns how many.
  std::size_t end_unless(const std::function<bool(const Who&)>& allowed, const Error& why);
  std::size_t size() const { return list_.size(); }

 private:
  friend class Listed<Who>;
  std::multimap<Who, Listed<Who>*> list_;
};

template <class Who>
class Listed final : public SocketSide {
 public:
  Listed(Roster<Who>& home, const Who& who, net::Loop& loop, BlockPool& blocks, layers::Stack stack)
      : SocketSide(loop, blocks, std::move(stack)), home_(home), place_(home.list_.emplace(who, this)) {}
  ~Listed() override { home_.list_.erase(place_); }

 private:
  friend class Roster<Who>;
  Roster<Who>& home_;
  typename std::multimap<Who, Listed*>::iterator place_;
};

template <class Who>
std::size_t Roster<Who>::end_unless(const std::function<bool(const Who&)>& allowed, const Error& why) {
  std::vector<Relay*> ending;  // relays are destroyed later, so none of them goes while we abort
  for (auto at = list_.begin(); at != list_.end();) {
    const auto next = list_.upper_bound(at->first);
    if (allowed(at->first)) at = next;
    for (; at != next; ++at) {
      if (at->second->relay_ != nullptr && !at->second->relay_->finished()) ending.push_back(at->second->relay_);
    }
  }
  for (Relay* relay : ending) relay->abort(why);
  return ending.size();
}

}  // namespace ebb::relay
