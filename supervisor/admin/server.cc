#include "supervisor/admin/server.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "ipc/channel.h"
#include "supervisor/admin/protocol.h"

namespace ebb::supervisor::admin {

struct Server::Conversation {
  Conversation(Server& owner, Fd fd)
      : server(owner),
        socket(std::move(fd)),
        deadline(
            [](void* conversation) {
              auto& one = *static_cast<Conversation*>(conversation);
              one.server.end(one);
            },
            this) {}

  void read() {
    char chunk[4096];
    while (!asked) {
      const auto n = ::recv(socket.get(), chunk, sizeof chunk, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) return server.end(*this);
      request.append(chunk, static_cast<std::size_t>(n));
      const auto line = request.find('\n');
      if (line == std::string::npos && request.size() < kMaxRequest) continue;
      asked = true;
      if (line == std::string::npos || line >= kMaxRequest) {
        answer(reply_error(2, "the request is longer than 64 KiB"));
        return;
      }
      request.resize(line);
      server.loop_.arm(deadline, kAnswerDeadline);
      // The answer may come when this conversation is over already.
      server.handler_(std::exchange(request, {}), [weak = self](std::string text) {
        if (const auto alive = weak.lock()) alive->answer(std::move(text));
      });
    }
  }
  void answer(std::string text) {
    if (over) return;
    reply = std::move(text);
    server.loop_.arm(deadline, kDeadline);
    write();
  }
  void write() {
    while (!reply.empty() && sent < reply.size()) {
      const auto n = ::send(socket.get(), reply.data() + sent, reply.size() - sent, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) return server.end(*this);
      sent += static_cast<std::size_t>(n);
    }
    if (!reply.empty()) server.end(*this);
  }
  void on_events() {
    if (over) return;
    if (!asked) read();
    if (!over) write();
  }

  Server& server;
  Fd socket;
  std::weak_ptr<Conversation> self;
  std::string request, reply;
  std::size_t sent = 0;
  bool asked = false;
  bool over = false;
  net::Timer deadline;
  std::unique_ptr<Watch> watch;
};

Result<std::unique_ptr<Server>> Server::listen(net::UvLoop& loop, const std::string& path, Handler handler) {
  const auto fail = [&](int code) {
    return std::unexpected(Error{Errc::os, path + ": " + std::strerror(code), "admin socket"});
  };
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return fail(ENAMETOOLONG);
  struct stat old{};
  if (::lstat(path.c_str(), &old) == 0 && !S_ISSOCK(old.st_mode)) return fail(EEXIST);
  // Made beside and moved into its place: at any time somebody answers there, also while supervisors change.
  const std::string draft = path + ".new";
  if (draft.size() >= sizeof address.sun_path) return fail(ENAMETOOLONG);
  std::memcpy(address.sun_path, draft.c_str(), draft.size() + 1);
  ::unlink(draft.c_str());
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return fail(errno);
  const mode_t mask = ::umask(0177);
  const int bound = ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int code = errno;
  ::umask(mask);
  if (bound != 0) return fail(code);
  if (::listen(socket.get(), 64) != 0 || ::rename(draft.c_str(), path.c_str()) != 0) return fail(errno);
  return std::unique_ptr<Server>(new Server(loop, path, std::move(socket), std::move(handler)));
}

Server::Server(net::UvLoop& loop, std::string path, Fd socket, Handler handler)
    : loop_(loop),
      path_(std::move(path)),
      socket_(std::move(socket)),
      handler_(std::move(handler)),
      bury_([](void* self) { static_cast<Server*>(self)->bury(); }, this) {
  struct stat made{};
  if (::lstat(path_.c_str(), &made) == 0) inode_ = made.st_ino;
  watch_ = std::make_unique<Watch>(loop_, socket_.get(), [this] { accept_all(); });
}

Server::~Server() {
  if (socket_) remove_path();
}

void Server::remove_path() const {
  struct stat there{};
  if (::lstat(path_.c_str(), &there) == 0 && there.st_ino == inode_) ::unlink(path_.c_str());
}

void Server::release() {
  accept_all();  // who has connected is answered
  watch_->stop();
  socket_.reset();
  remove_path();
}

void Server::accept_all() {
  while (socket_ && conversations_.size() < kMaxConversations) {
    Fd peer(::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!peer) return;
    const auto uid = ipc::peer_uid(peer.get());
    if (!uid || (*uid != 0 && *uid != ::geteuid())) continue;
    auto one = std::make_shared<Conversation>(*this, std::move(peer));
    one->self = one;
    one->watch = std::make_unique<Watch>(loop_, one->socket.get(), [raw = one.get()] { raw->on_events(); });
    loop_.arm(one->deadline, kDeadline);
    conversations_.push_back(std::move(one));
  }
}

void Server::end(Conversation& one) {
  if (one.over) return;
  one.over = true;
  one.deadline.disarm();
  one.watch->stop();
  const auto found = std::ranges::find_if(conversations_, [&](const auto& c) { return c.get() == &one; });
  ended_.splice(ended_.end(), conversations_, found);
  loop_.defer(bury_);
}

void Server::bury() {
  ended_.clear();
  accept_all();  // somebody may have waited for a place
}

}  // namespace ebb::supervisor::admin
