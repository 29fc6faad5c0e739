// The admin socket: who may ask, how long, how much. spec/processes.md 11.2.
#pragma once

#include <sys/types.h>

#include <functional>
#include <list>
#include <memory>
#include <string>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/net/uv_loop.h"
#include "supervisor/generations/link.h"

namespace ebb::supervisor::admin {

class Server {
 public:
  static constexpr std::size_t kMaxConversations = 16;       // more wait in the socket's queue
  static constexpr std::chrono::seconds kDeadline{10};       // to ask; to take the answer
  static constexpr std::chrono::minutes kAnswerDeadline{5};  // for a reload, a stop

  /// Answers one line; calls `reply` once, now or later, with the line to send.
  using Handler = std::function<void(std::string line, std::function<void(std::string reply)> reply)>;

  /// Makes the socket (mode 0600); a socket left there by a dead instance is replaced (the caller holds the instance's
  /// lock). Errors: os, with the path.
  static Result<std::unique_ptr<Server>> listen(net::UvLoop& loop, const std::string& path, Handler handler);
  ~Server();

  /// Another supervisor answers from now on: takes no more conversations, ends those under way. The path is removed
  /// unless it is the other one's already.
  void release();

 private:
  struct Conversation;

  Server(net::UvLoop& loop, std::string path, Fd socket, Handler handler);
  void remove_path() const;
  void accept_all();
  void end(Conversation& one);
  void bury();

  net::UvLoop& loop_;
  std::string path_;
  ino_t inode_ = 0;  // of what is ours at `path_`
  Fd socket_;
  Handler handler_;
  std::list<std::shared_ptr<Conversation>> conversations_;
  std::list<std::shared_ptr<Conversation>> ended_;  // until no callback of theirs runs
  net::Deferred bury_;
  std::unique_ptr<Watch> watch_;
};

}  // namespace ebb::supervisor::admin
