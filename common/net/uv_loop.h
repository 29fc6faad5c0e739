// Loop on libuv. Descriptors are watched edge-triggered in one epoll set of our own, which libuv polls: a connection
// costs one epoll_ctl in its life, however often it is paused and resumed (uv_poll_start costs two system calls each).
#pragma once

#include <functional>
#include <memory>

#include "common/base/fd.h"
#include "common/net/loop.h"

struct uv_loop_s;

namespace ebb::net {

/// A descriptor in the loop's epoll set. Edge-triggered: on_events() is told once per change.
class Watched {
 public:
  virtual void on_events(std::uint32_t epoll_events) = 0;

 protected:
  ~Watched() = default;
};

class UvLoop final : public Loop {
 public:
  UvLoop();
  ~UvLoop() override;

  /// Runs until stop().
  void run();
  void stop();
  /// One turn without waiting; for tests.
  void run_once();

  uv_loop_s* raw();
  /// For callbacks of handles made on raw(): brings now() up to date. What they deferred runs before the loop waits.
  void woken();
  /// Watches for input, output, hang-up and errors, edge-triggered. False: the kernel refused.
  bool add(int fd, Watched& who);
  /// Has to be called before the descriptor is closed; no event arrives afterwards, not even one already fetched.
  void remove(int fd, Watched& who);
  /// Runs `work` on this loop soon; callable from any thread.
  void post(std::function<void()> work);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ebb::net
