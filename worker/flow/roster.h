// The client ends of flows whose clients said who they are: whoever is shown out can be found.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "worker/flow/wire_end.h"

namespace ebb::flow {

template <class Who>
class Listed;

/// Must outlive every end on its list: the loop's flows.
template <class Who>
class Roster {
 public:
  /// Ends the flows of everybody who is not `allowed`; returns how many.
  std::size_t end_unless(const std::function<bool(const Who&)>& allowed);

 private:
  friend class Listed<Who>;
  std::multimap<Who, Listed<Who>*> list_;
};

template <class Who>
class Listed final : public WireEnd {
 public:
  Listed(Roster<Who>& home, const Who& who, net::Loop& loop, relay::BlockPool& blocks, layers::Stack stack)
      : WireEnd(loop, blocks, std::move(stack)), home_(home), place_(home.list_.emplace(who, this)) {}
  ~Listed() override { home_.list_.erase(place_); }

 private:
  friend class Roster<Who>;
  Roster<Who>& home_;
  typename std::multimap<Who, Listed*>::iterator place_;
};

template <class Who>
std::size_t Roster<Who>::end_unless(const std::function<bool(const Who&)>& allowed) {
  std::vector<Flow*> ending;  // flows are destroyed later, so none of them goes while we end them
  for (auto& [who, end] : list_) {
    if (end->flow_ != nullptr && !end->flow_->finished() && !allowed(who)) ending.push_back(end->flow_);
  }
  for (Flow* flow : ending) flow->end();
  return ending.size();
}

}  // namespace ebb::flow
