// Visitors who said who they are: a configuration without them ends what they have.
#pragma once

#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "worker/broker/generation_tables.h"
#include "worker/relay/socket_side.h"

namespace ebb::broker {

class Visitor;

/// Must outlive every visitor on its list: the loop's relays.
class Visitors {
 public:
  void end_unless(const std::function<bool(const Person&)>& allowed, const Error& why);
  std::size_t size() const { return list_.size(); }

 private:
  friend class Visitor;
  std::multimap<Person, Visitor*> list_;
};

/// The client side of a visitor's relay.
class Visitor final : public relay::SocketSide {
 public:
  Visitor(Visitors& home, const Person& person, net::Loop& loop, relay::BlockPool& blocks,
          std::unique_ptr<relay::Codec> codec)
      : SocketSide(loop, blocks, std::move(codec)), home_(home), place_(home.list_.emplace(person, this)) {}
  ~Visitor() override { home_.list_.erase(place_); }

 private:
  friend class Visitors;
  Visitors& home_;
  std::multimap<Person, Visitor*>::iterator place_;
};

inline void Visitors::end_unless(const std::function<bool(const Person&)>& allowed, const Error& why) {
  std::vector<Visitor*> ending;  // relays are destroyed later, so none of them goes while we abort
  for (auto at = list_.begin(); at != list_.end();) {
    const auto next = list_.upper_bound(at->first);
    if (!allowed(at->first)) {
      for (; at != next; ++at) ending.push_back(at->second);
    }
    at = next;
  }
  for (Visitor* visitor : ending) {
    if (visitor->relay_ != nullptr) visitor->relay_->abort(why);
  }
}

}  // namespace ebb::broker
