#include "supervisor/generations/predecessor.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <cstring>

namespace ebb::supervisor {
namespace {

using Steady = std::chrono::steady_clock;

std::string take_variable(const char* name) {
  const char* value = ::getenv(name);
  std::string text = value == nullptr ? "" : value;
  ::unsetenv(name);
  return text;
}

Fd take_descriptor(const char* name) {
  const std::string text = take_variable(name);
  int number = -1;
  std::from_chars(text.data(), text.data() + text.size(), number);
  if (number <= 2 || ::fcntl(number, F_SETFD, FD_CLOEXEC) != 0) return {};
  return Fd(number);
}

Error error(Errc code, std::string what) { return Error{code, std::move(what), "upgrade link"}; }

}  // namespace

std::optional<UpgradeCall> upgrade_call() {
  UpgradeCall call;
  call.link = take_descriptor(kUpgradeFd);
  call.lock = take_descriptor(kUpgradeLock);
  call.directory = take_variable(kUpgradeDirectory);
  if (!call.link || !call.lock || call.directory.empty()) return std::nullopt;
  ::fcntl(call.link.get(), F_SETFL, O_NONBLOCK);
  return call;
}

Result<MetPredecessor> meet_predecessor(Fd link, std::chrono::milliseconds limit) {
  ipc::Channel::Options room;
  room.max_queued_fds = 4096;
  MetPredecessor met{
      ipc::Channel(std::move(link), ipc::Link::upgrade, ipc::Role::successor, ipc::Role::supervisor, room),
      {},
      {},
      {},
      {}};
  ipc::Hello hello;
  hello.role = ipc::Role::successor;
  hello.pid = static_cast<std::uint32_t>(::getpid());
  met.channel.send_body(ipc::Type::hello, hello);
  const auto deadline = Steady::now() + limit;
  while (!met.replay) {
    ipc::ReadEnd end = ipc::ReadEnd::drained;
    auto message = met.channel.next(end);
    if (!message && end == ipc::ReadEnd::drained) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Steady::now()).count();
      pollfd waiting{met.channel.fd(), POLLIN, 0};
      if (left <= 0 || ::poll(&waiting, 1, static_cast<int>(left)) == 0) {
        return std::unexpected(error(Errc::timeout, "the running supervisor did not greet in time"));
      }
      continue;
    }
    if (!message && end == ipc::ReadEnd::busy) continue;
    if (!message) return std::unexpected(error(Errc::closed, "the running supervisor has hung up"));
    switch (message->type()) {
      case ipc::Type::hello: {
        const auto said = message->as<ipc::Hello>();
        met.who.pid = static_cast<pid_t>(said.pid);
        met.who.gen = said.gen;
        met.who.apart = said.protocol != ipc::kProtocol;
        met.process = Process{met.who.pid, Fd(static_cast<int>(::syscall(SYS_pidfd_open, met.who.pid, 0)))};
        break;
      }
      case ipc::Type::broker_state: {
        const auto state = message->as<ipc::BrokerState>();
        if (state.state != ipc::BrokerPhase::dead) met.who.brokers.push_back(state.broker_gen);
        break;
      }
      case ipc::Type::slot_grant: {
        const auto grants = message->records<ipc::SlotGrant>();
        for (std::size_t i = 0; i < grants.size(); ++i) {
          met.slots.push_back({std::move(message->fds[i]), grants[i].cookie, grants[i].slot, grants[i].listener});
        }
        break;
      }
      case ipc::Type::shm:
        if (message->as<ipc::Shm>().kind == ipc::ShmKind::replay) met.replay = std::move(message->fds[0]);
        break;
      default: break;
    }
  }
  if (!met.process.pidfd) return std::unexpected(error(Errc::protocol, "the running supervisor did not say who it is"));
  return met;
}

}  // namespace ebb::supervisor
