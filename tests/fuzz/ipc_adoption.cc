// A child without a supervisor, at whose adoption socket the input knocks: connections that say anything, in any order,
// or nothing. Whatever came before, a real supervisor gets in afterwards, unless one is in already.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "ipc/child.h"

namespace {

using namespace ebb;
using namespace ebb::ipc;

struct Handler final : ChildHandler {
  int held = -1;
  bool over = false, adopted = false;

  void on_log(LogKind, Fd) override {}
  Result<> on_shm(ShmKind, Fd, std::uint64_t) override { return {}; }
  Result<> on_config(std::uint64_t, std::string_view) override { return {}; }
  void on_slot(const SlotGrant&, Fd socket) override {
    if (!socket) std::abort();
  }
  void on_slot_revoked(std::uint32_t) override {}
  void on_link(const LinkAdd&, Fd end) override {
    if (!end) std::abort();
  }
  void on_start() override {}
  void on_pause() override {}
  void on_drain(const DrainOrder& order) override {
    if (order.why == DrainOrder::Why::supervisor_gone) over = true;
  }
  std::string on_query(std::string_view request) override { return std::string(request); }
  Vitals on_ping() override { return {}; }
  Adoptable adoptable() override { return {1, {{{1, 2, 3}, held}}}; }
  void on_adopted() override { adopted = true; }
  void on_broken(const Error&) override { over = true; }
};

struct Door {
  Fd listener{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  sockaddr_un address{};

  Door() {
    address.sun_family = AF_UNIX;  // bound by the kernel to an abstract name of its own
    const auto size = static_cast<socklen_t>(sizeof(sa_family_t));
    socklen_t length = sizeof address;
    if (::bind(listener.get(), generic(), size) != 0 || ::listen(listener.get(), 64) != 0 ||
        ::getsockname(listener.get(), generic(), &length) != 0) {
      std::abort();
    }
    length_ = length;
  }
  Fd knock() {
    Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::connect(fd.get(), generic(), length_) != 0) std::abort();
    return fd;
  }
  sockaddr* generic() { return reinterpret_cast<sockaddr*>(&address); }

 private:
  socklen_t length_ = 0;
};

/// A message whose header is right where the input does not say otherwise; the seq is always the next one.
Bytes message(const std::uint8_t*& at, const std::uint8_t* end, std::uint32_t& seq) {
  Header header;
  const std::uint8_t choice = *at++;
  const auto byte = [&]() -> std::uint8_t { return at < end ? *at++ : std::uint8_t{0}; };
  header.type = byte() % 24;
  header.flags = choice & 3;
  header.nrec = choice & 4 ? byte() % 70 : 0;
  header.seq = choice & 8 ? byte() : ++seq;
  if (choice & 16) header.protocol = byte();
  const Rule* rule = find_rule(Type{header.type}, Link::adoption, Role::supervisor);
  std::size_t length = rule != nullptr ? rule->fixed + std::size_t{rule->record} * header.nrec : 0;
  if (choice & 32) length += byte();
  header.body_len = static_cast<std::uint32_t>(length);
  Bytes out(sizeof header + length);
  std::memcpy(out.data(), &header, sizeof header);
  const std::size_t have = std::min(length, static_cast<std::size_t>(end - at));
  if (choice & 64 && have > 0) std::memcpy(out.data() + sizeof header, at, have), at += have;
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Door door;
  Handler handler;
  Fd held(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  handler.held = held.get();
  TimePoint now{std::chrono::hours(1)};
  auto ends = ipc::pair();
  ChildControl child(std::move(ends->second), Role::broker, handler,
                     Fd(::fcntl(door.listener.get(), F_DUPFD_CLOEXEC, 0)), [&] { return now; });
  {
    Channel first(std::move(ends->first), Link::ctl, Role::supervisor, Role::broker);
    Hello hello;
    hello.role = Role::supervisor;
    first.send_body(Type::hello, hello);
    first.send_body(Type::commit, Gen{1});
  }
  child.on_readable();
  if (!child.orphaned()) std::abort();

  std::vector<Fd> clients;
  std::uint32_t seq = 0;
  const std::uint8_t* const end = data + size;
  for (const std::uint8_t* at = data; at < end && !handler.over;) {
    switch (*at++ % 8) {
      case 0: clients.push_back(door.knock()), seq = 0; break;
      case 1: clients.clear(); break;
      case 2: now += std::chrono::milliseconds(at < end ? *at++ * 100 : 0); break;
      case 3: child.report({kLinkFaults, 1, 1}); break;
      default:
        if (clients.empty() || at == end) break;
        const Bytes bytes = message(at, end, seq);
        (void)::send(clients.back().get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    const int before = child.fd();
    if (child.adoption_fd() >= 0) child.on_adoption_readable();
    if (child.fd() >= 0) child.on_readable();
    if (const auto due = child.next_deadline(); due && *due <= now) child.on_deadline();
    if (before < 0 && child.fd() >= 0 && child.adoption_fd() >= 0) std::abort();  // one at a time
    if (clients.size() > 32) clients.clear();
  }
  clients.clear();
  if (handler.over) return 0;
  for (int turn = 0; turn < 80; ++turn) {  // whoever still waits at the door has left
    if (child.adoption_fd() >= 0) child.on_adoption_readable();
    if (child.fd() >= 0) child.on_readable();
    now += std::chrono::milliseconds(100);
    child.on_deadline();
  }
  if (handler.over) return 0;
  if (!child.orphaned()) std::abort();  // an adopter that has died leaves it as the first supervisor did
  Channel next(door.knock(), Link::adoption, Role::supervisor, Role::broker);
  next.send_body(Type::adopt, Adopt{});
  child.on_adoption_readable();
  child.on_readable();
  std::size_t fds = 0;
  next.on_readable([&](Message& m) {
    if (m.type() == Type::adopt_state) fds = m.fds.size();
  });
  if (child.orphaned() || fds != 1) std::abort();
  return 0;
}
