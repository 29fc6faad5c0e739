#include "common/net/dial.h"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

namespace ebb::net {
namespace {

constexpr Duration kPauseStep = std::chrono::milliseconds(100);
constexpr Duration kStagger = std::chrono::milliseconds(300);

/// The second address is of the other family when there is one, so that a dead IPv6 route costs one stagger only.
void mix_families(std::vector<IpAddress>& addresses) {
  if (addresses.empty()) return;
  const auto other = std::ranges::find(addresses, !addresses.front().v6, &IpAddress::v6);
  if (other != addresses.end()) std::rotate(addresses.begin() + 1, other, other + 1);
}

}  // namespace

struct Dial::Connecting final : Watched {
  Connecting(Dial& owner, const Endpoint& endpoint) : dial(owner), to(endpoint) {}
  ~Connecting() {
    if (watched) dial.loop_.remove(socket.get(), *this);
  }

  /// 0: under way or connected, on_events() will tell. Else errno.
  int begin(const std::optional<IpAddress>& bind_to) {
    sockaddr_storage storage{};
    unsigned length = endpoint_to(to, storage);
    socket = Fd(::socket(storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket) return errno;
    tune_socket(socket.get(), dial.plan_.dead_after);
    if (bind_to) {
      const int on = 1;  // the port is chosen at connect(), where (local, remote) has to be unique, not local alone
      ::setsockopt(socket.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
      sockaddr_storage local{};
      const unsigned local_length = endpoint_to(Endpoint{*bind_to, 0}, local);
      if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&local), local_length) != 0) return errno;
    }
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0 && errno != EINPROGRESS) {
      return errno;
    }
    watched = dial.loop_.add(socket.get(), *this);
    return watched ? 0 : ENOMEM;
  }

  void on_events(std::uint32_t events) override {
    if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) == 0) return;
    int error = 0;
    socklen_t length = sizeof error;
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
    dial.on_settled(*this, error);
  }

  Dial& dial;
  Endpoint to;
  Fd socket;
  bool watched = false;
};

Dial::Dial(UvLoop& loop, DialPlan plan, Done done)
    : loop_(loop),
      plan_(std::move(plan)),
      done_(std::move(done)),
      next_([](void* self) { static_cast<Dial*>(self)->on_pause_over(); }, this),
      deadline_(
          [](void* self) {
            auto& dial = *static_cast<Dial*>(self);
            const Error late{
                Errc::timeout,
                "connect " + host_text(dial.plan_.host) + ":" + std::to_string(dial.plan_.port) + ": no answer in time",
                {}};
            dial.attempt_failed(dial.last_error_.value_or(late));
          },
          this),
      start_([](void* self) { static_cast<Dial*>(self)->begin_attempt(); }, this) {
  loop_.defer(start_);
}

Dial::~Dial() = default;

void Dial::on_pause_over() { paused_ ? begin_attempt() : connect_next(); }

void Dial::begin_attempt() {
  paused_ = false;
  last_error_.reset();
  loop_.arm(deadline_, plan_.attempt_timeout);
  if (const auto* ip = std::get_if<IpAddress>(&plan_.host)) return on_addresses(std::vector{*ip});
  lookup_ = std::make_unique<Lookup>(loop_, plan_.host, [this](auto addresses) { on_addresses(std::move(addresses)); });
}

void Dial::on_addresses(Result<std::vector<IpAddress>> addresses) {
  lookup_.reset();
  if (!addresses) return attempt_failed(std::move(addresses.error()));
  addresses_ = std::move(*addresses);
  if (plan_.bind) {
    std::erase_if(addresses_, [v6 = plan_.bind->v6](const IpAddress& ip) { return ip.v6 != v6; });
    if (addresses_.empty()) {
      return attempt_failed(
          Error{Errc::refused,
                "connect " + host_text(plan_.host) + ": no address of the family of " + plan_.bind->text(),
                {}});
    }
  }
  mix_families(addresses_);
  next_address_ = 0;
  connect_next();
}

void Dial::connect_next() {
  while (next_address_ < addresses_.size()) {
    const Endpoint to{addresses_[next_address_++], plan_.port};
    auto attempt = std::make_unique<Connecting>(*this, to);
    const int error = attempt->begin(plan_.bind);
    if (error == 0) {
      connecting_.push_back(std::move(attempt));
      if (next_address_ < addresses_.size()) loop_.arm(next_, kStagger);
      return;
    }
    last_error_ = failure(to, error);
  }
  if (!connecting_.empty()) return;
  assert(last_error_.has_value());  // there was at least one address, and none of them is being tried
  attempt_failed(*last_error_);
}

void Dial::on_settled(Connecting& which, int error) {
  if (error == 0) {
    loop_.remove(which.socket.get(), which);
    which.watched = false;
    Fd socket = std::move(which.socket);
    stop_trying();  // `which` is gone
    return finish(std::make_unique<TcpStream>(loop_, std::move(socket)));
  }
  last_error_ = failure(which.to, error);
  std::erase_if(connecting_, [&which](const auto& each) { return each.get() == &which; });
  connect_next();
}

void Dial::attempt_failed(Error why) {
  stop_trying();
  if (++attempt_ >= plan_.attempts) return finish(std::unexpected(std::move(why)));
  paused_ = true;
  loop_.arm(next_, attempt_ * kPauseStep);
}

void Dial::stop_trying() {
  lookup_.reset();
  connecting_.clear();
  next_.disarm();
  deadline_.disarm();
}

void Dial::finish(Result<std::unique_ptr<TcpStream>> outcome) {
  const Done done = std::move(done_);
  done(std::move(outcome));  // may destroy us
}

Error Dial::failure(const Endpoint& to, int error) const {
  Errc code = Errc::os;
  if (error == ECONNREFUSED) code = Errc::refused;
  if (error == ETIMEDOUT) code = Errc::timeout;
  if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM) code = Errc::overload;
  const bool literal = std::holds_alternative<IpAddress>(plan_.host);
  std::string what = "connect " + (literal ? to.text() : host_text(plan_.host) + ":" + std::to_string(plan_.port));
  if (!literal) what += " (" + to.text() + ")";
  return Error{code, what + ": " + std::strerror(error), {}};
}

}  // namespace ebb::net
