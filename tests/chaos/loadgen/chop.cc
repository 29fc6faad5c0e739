#include "tests/chaos/loadgen/chop.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace ebb::loadgen {

/// Two sockets and a buffer per direction. It marks itself dead; tick() removes it, off its own stack.
class Chopper::Pair {
 public:
  Pair(Chopper& chopper, Fd client, Fd server)
      : up_(*this, std::move(client), down_), down_(*this, std::move(server), up_), singles_(chopper.singles_) {
    for (End* end : {&up_, &down_}) {
      const int on = 1;
      ::setsockopt(end->from.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      chopper.poller_.add(end->from.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, *end);
    }
  }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;
  ~Pair() = default;

  bool dead() const { return dead_; }

  /// One of the first bytes goes on; after the last of them everything flows by itself.
  void tick() {
    if (dead_ || singles_ == 0 || up_.waiting.empty()) return;
    if (!send(up_, 1)) return;
    --singles_;
    flush(up_);
    read(up_);
  }

 private:
  /// One socket, and what was read from it but not yet written to the other one.
  struct End final : Watcher {
    End(Pair& owner, Fd fd, End& other) : pair(owner), from(std::move(fd)), to(&other) {}
    void on_event(std::uint32_t) override { pair.pump(*this); }

    Pair& pair;
    Fd from;
    End* to;
    std::vector<std::uint8_t> waiting;
    bool ended = false, told = false;
  };

  void pump(End& end) {
    if (dead_) return;
    flush(*end.to);  // this socket may have become writable
    read(*end.to);
    read(end);
  }

  void read(End& end) {
    while (!dead_ && !end.ended && end.waiting.empty()) {
      std::array<std::uint8_t, 16'384> bytes;
      const ssize_t done = ::recv(end.from.get(), bytes.data(), bytes.size(), 0);
      if (done < 0) {
        dead_ = dead_ || (errno != EAGAIN && errno != ENOTCONN);
        return;
      }
      end.ended = done == 0;
      end.waiting.assign(bytes.data(), bytes.data() + done);
      flush(end);
      if (!end.waiting.empty()) return;
    }
  }

  /// False when nothing could be sent now.
  bool send(End& end, std::size_t count) {
    const ssize_t done = ::send(end.to->from.get(), end.waiting.data(), count, MSG_NOSIGNAL);
    if (done < 0) {
      dead_ = dead_ || (errno != EAGAIN && errno != ENOTCONN);
      return false;
    }
    end.waiting.erase(end.waiting.begin(), end.waiting.begin() + done);
    return true;
  }

  void flush(End& end) {
    if (&end == &up_ && singles_ > 0 && !end.waiting.empty()) return;  // they go by tick() alone
    while (!dead_ && !end.waiting.empty()) {
      if (!send(end, end.waiting.size())) return;
    }
    if (end.ended && !end.told) {
      end.told = true;
      ::shutdown(end.to->from.get(), SHUT_WR);
      dead_ = dead_ || end.to->told;
    }
  }

  End up_, down_;
  std::size_t singles_;
  bool dead_ = false;
};

Chopper::Chopper(Poller& poller, std::uint16_t port, Target target, std::size_t singles)
    : poller_(poller), listener_(listen_on(port, false, false)), target_(std::move(target)), singles_(singles) {
  poller_.add(listener_.get(), EPOLLIN, *this);
}

Chopper::~Chopper() = default;

void Chopper::on_event(std::uint32_t) {
  Fd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!client) return;
  Fd server = dial(target_, accepted_++);
  if (!server) return;
  auto pair = std::make_unique<Pair>(*this, std::move(client), std::move(server));
  auto* key = pair.get();
  pairs_.emplace(key, std::move(pair));
}

void Chopper::tick() {
  for (auto& [key, pair] : pairs_) pair->tick();
  std::erase_if(pairs_, [](const auto& each) { return each.second->dead(); });
}

}  // namespace ebb::loadgen
