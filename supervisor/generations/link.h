// One child as the runner holds it: the process, its ctl link and what is still to be answered.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "common/base/fd.h"
#include "common/net/uv_loop.h"
#include "ipc/channel.h"
#include "supervisor/generations/actions.h"
#include "supervisor/process/spawn.h"

namespace ebb::supervisor {

/// A descriptor on the loop and what happens there.
class Watch final : public net::Watched {
 public:
  Watch(net::UvLoop& loop, int fd, std::function<void()> ready) : loop_(loop), fd_(fd), ready_(std::move(ready)) {
    watching_ = loop_.add(fd_, *this);
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch() { stop(); }
  /// Also from within the callback; has to come before the number can belong to another descriptor.
  void stop() {
    if (std::exchange(watching_, false)) loop_.remove(fd_, *this);
  }
  void on_events(std::uint32_t) override { ready_(); }

 private:
  net::UvLoop& loop_;
  int fd_;
  bool watching_ = false;
  std::function<void()> ready_;
};

struct ChildLink {
  /// `with` may be closed: then there is only the process.
  ChildLink(ChildKey of, Process that, ipc::Channel with)
      : key(of), process(std::move(that)), channel(std::move(with)) {}

  ChildKey key;
  Process process;
  ipc::Channel channel;
  std::unique_ptr<Watch> ctl_watch;
  std::unique_ptr<Watch> exit_watch;
  std::string adoption;       // path of its socket; empty: it has none
  std::uint64_t started = 0;  // process_start()
  bool ours = true;           // our child: it is collected; false: only its pidfd tells that it has ended
  bool ctl_ended = false;
  std::deque<std::uint64_t> asked;  // gatherings whose ANSWER is due, in order
  std::string answer;               // parts so far
};

}  // namespace ebb::supervisor
