// The slots this worker polls: level-triggered, at most 64 accepts a wake-up each, never listen() or shutdown().
// Others hold the same sockets: shutdown() would reset the queue of all, another backlog would hold for all. And nobody
// is accepted only to be closed: the kernel's queue holds who comes while descriptors are short.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "common/base/address.h"
#include "common/base/fd.h"
#include "common/net/poll.h"
#include "ipc/child.h"

namespace ebb::edge {

struct Accepted {
  Fd socket;  // non-blocking, close-on-exec
  Endpoint source;
  std::size_t inbound = 0;
};

class Listeners {
 public:
  static constexpr int kAcceptsPerTurn = 64;
  /// After running out of descriptors, and for as long as the reserve is not there again.
  static constexpr Duration kRetry = std::chrono::milliseconds(100);

  struct Owner {
    std::function<void(Accepted)> accepted;
    /// Asked before each accept and by review(): whether connections of this inbound are wanted now.
    std::function<bool(std::size_t inbound)> wanted;
  };
  Listeners(net::UvLoop& loop, Owner owner);
  Listeners(const Listeners&) = delete;
  Listeners& operator=(const Listeners&) = delete;
  ~Listeners();

  /// False: the kernel cannot poll it.
  bool add(const ipc::SlotGrant& grant, Fd socket);
  void remove(std::uint32_t slot);
  /// Closes every copy; what is queued stays with the other holders.
  void clear();
  /// Polls what is wanted and nothing else. After anything that wanted() depends on has changed.
  void review();
  std::size_t size() const { return slots_.size(); }
  /// For a supervisor that adopts us.
  std::vector<ipc::HeldSlot> held() const;

 private:
  struct Slot {
    Fd socket;
    std::size_t inbound = 0;
    std::uint64_t cookie = 0;
    std::uint32_t listener = 0;
    std::unique_ptr<net::Poll> poll;
    bool polled = false;
  };
  void accept_some(Slot& slot);

  net::UvLoop& loop_;
  Owner owner_;
  std::map<std::uint32_t, Slot> slots_;
  bool starved_ = false;  // accept4() said that there are no descriptors
  net::Timer retry_;
};

}  // namespace ebb::edge
