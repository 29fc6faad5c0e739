// A descriptor polled level-triggered, for the few that listen or carry messages: it is told until what is there is
// taken. Connections are streams, which cost less.
#pragma once

#include <functional>
#include <memory>

#include "common/net/uv_loop.h"

namespace ebb::net {

class Poll {
 public:
  using Ready = std::function<void(bool readable, bool writable)>;

  /// The descriptor stays the caller's, and must be open as long as this lives. Watches nothing until watch().
  /// `ready` may destroy the Poll. Hang-ups and errors count as both. Null: the kernel
  /// cannot poll it.
  static std::unique_ptr<Poll> make(UvLoop& loop, int fd, Ready ready);
  Poll(const Poll&) = delete;
  Poll& operator=(const Poll&) = delete;
  ~Poll();

  void watch(bool readable, bool writable);

 private:
  struct Block;  // starts with the uv handle: libuv's until its close callback
  explicit Poll(Block* block) : block_(block) {}
  Block* block_;
};

}  // namespace ebb::net
