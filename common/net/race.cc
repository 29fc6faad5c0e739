#include "common/net/race.h"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "common/net/tcp_stream.h"

namespace ebb::net {
namespace {

std::vector<IpAddress> at_most(std::vector<IpAddress> addresses, std::size_t limit) {
  if (addresses.size() > limit) addresses.resize(limit);
  return addresses;
}

}  // namespace

std::vector<IpAddress> interleave(std::vector<IpAddress> addresses) {
  if (addresses.empty()) return addresses;
  const bool first_v6 = addresses.front().v6;
  const auto others =
      std::stable_partition(addresses.begin(), addresses.end(), [&](const auto& ip) { return ip.v6 == first_v6; });
  std::vector<IpAddress> out;
  out.reserve(addresses.size());
  auto a = addresses.begin();
  auto b = others;
  while (a != others || b != addresses.end()) {
    if (a != others) out.push_back(*a++);
    if (b != addresses.end()) out.push_back(*b++);
  }
  return out;
}

struct Race::Connecting final : Watched {
  Connecting(Race& owner, const Endpoint& endpoint) : race(owner), to(endpoint) {}
  ~Connecting() {
    if (watched) race.loop_.remove(socket.get(), *this);
  }

  /// 0: under way or connected, on_events() will tell. Else errno.
  int begin(const RacePlan& plan) {
    sockaddr_storage storage{};
    const unsigned length = endpoint_to(to, storage);
    socket = Fd(::socket(storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket) return errno;
    tune_socket(socket.get(), plan.dead_after);
    if (plan.bind) {
      const int on = 1;  // the port is chosen at connect(), where (local, remote) has to be unique, not local alone
      ::setsockopt(socket.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
      sockaddr_storage local{};
      const unsigned local_length = endpoint_to(Endpoint{*plan.bind, 0}, local);
      if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&local), local_length) != 0) return errno;
    }
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0 && errno != EINPROGRESS) {
      return errno;
    }
    watched = race.loop_.add(socket.get(), *this);
    return watched ? 0 : ENOMEM;
  }

  void on_events(std::uint32_t events) override {
    if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) == 0) return;
    int error = 0;
    socklen_t length = sizeof error;
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
    race.on_settled(*this, error);
  }

  Race& race;
  Endpoint to;
  Fd socket;
  bool watched = false;
};

Race::Race(UvLoop& loop, std::vector<IpAddress> addresses, RacePlan plan, Done done)
    : loop_(loop),
      addresses_(at_most(interleave(std::move(addresses)), kMaxAddresses)),
      plan_(std::move(plan)),
      done_(std::move(done)),
      stagger_([](void* self) { static_cast<Race*>(self)->connect_next(); }, this),
      start_([](void* self) { static_cast<Race*>(self)->connect_next(); }, this) {
  loop_.defer(start_);
}

Race::~Race() = default;

void Race::connect_next() {
  stagger_.disarm();
  while (next_address_ < addresses_.size()) {
    const Endpoint to{addresses_[next_address_++], plan_.port};
    auto attempt = std::make_unique<Connecting>(*this, to);
    const int error = attempt->begin(plan_);
    if (error == 0) {
      connecting_.push_back(std::move(attempt));
      if (next_address_ < addresses_.size()) loop_.arm(stagger_, kStagger);
      return;
    }
    last_error_ = failure(to, error);
  }
  if (!connecting_.empty()) return;
  assert(last_error_.has_value());  // there was at least one address, and none of them is being tried
  finish(std::unexpected(*last_error_));
}

void Race::on_settled(Connecting& which, int error) {
  if (error == 0) {
    loop_.remove(which.socket.get(), which);
    which.watched = false;
    Fd socket = std::move(which.socket);
    connecting_.clear();  // `which` is gone
    stagger_.disarm();
    return finish(std::move(socket));
  }
  last_error_ = failure(which.to, error);
  std::erase_if(connecting_, [&which](const auto& each) { return each.get() == &which; });
  connect_next();
}

void Race::finish(Result<Fd> outcome) {
  const Done done = std::move(done_);
  done(std::move(outcome));  // may destroy us
}

Error Race::failure(const Endpoint& to, int error) const {
  Errc code = Errc::unreachable;
  if (error == ECONNREFUSED) code = Errc::refused;
  if (error == ETIMEDOUT) code = Errc::timeout;
  if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM || error == EADDRNOTAVAIL) {
    code = Errc::overload;  // ports of our own have run out
  }
  std::string what = "connect " + (plan_.name.empty() ? to.text() : plan_.name + ":" + std::to_string(plan_.port));
  if (!plan_.name.empty()) what += " (" + to.text() + ")";
  return Error{code, what + ": " + std::strerror(error), {}};
}

}  // namespace ebb::net
