#include "ipc/child.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "common/crypto/hash.h"
#include "ipc/memfd.h"

namespace ebb::ipc {
namespace {

constexpr std::size_t kMaxQuery = 64 * 1024;  // what the admin socket takes; a child never has to store more
constexpr std::size_t kMaxSnapshot = std::size_t{256} << 20;

/// QUIT by descriptor; TERM ends us at once, as it would any program.
Fd take_child_signals() {
  sigset_t quit;
  sigset_t term;
  sigemptyset(&quit);
  sigemptyset(&term);
  sigaddset(&quit, SIGQUIT);
  sigaddset(&term, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &quit, nullptr);
  ::sigprocmask(SIG_UNBLOCK, &term, nullptr);
  return Fd(::signalfd(-1, &quit, SFD_NONBLOCK | SFD_CLOEXEC));
}

std::uint64_t resident_bytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  unsigned long total = 0;
  unsigned long resident = 0;
  const int read = std::fscanf(file, "%lu %lu", &total, &resident);
  std::fclose(file);
  return read == 2 ? std::uint64_t{resident} * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) : 0;
}

}  // namespace

ChildControl::ChildControl(Fd ctl, Role self, ChildHandler& handler)
    : channel_(std::move(ctl), Link::ctl, self, Role::supervisor),
      handler_(handler),
      self_(self),
      signals_(take_child_signals()) {
  Hello hello;
  hello.role = self;
  hello.pid = static_cast<std::uint32_t>(::getpid());
  channel_.send_body(Type::hello, hello);
}

void ChildControl::on_readable() {
  while (channel_.open() && !broken_ && !ended_) {
    const ReadEnd end = channel_.on_readable([this](Message& message) { on_message(message); });
    if (end == ReadEnd::busy) continue;
    if (end == ReadEnd::drained || end == ReadEnd::starved) return;
    ended_ = true;
    if (broken_) return;
    if (end == ReadEnd::fault) {
      broken(
          Error{Errc::protocol, "the supervisor sent a bad message: " + std::string(name_of(channel_.fault())), "ctl"});
      return;
    }
    // Nobody is left to adopt us yet: end of file means QUIT (spec/processes.md 9.4 changes that).
    handler_.on_drain({DrainOrder::Why::supervisor_gone, std::nullopt, std::chrono::milliseconds(0)});
    return;
  }
}

void ChildControl::on_writable() {
  if (channel_.open()) channel_.on_writable();
}

void ChildControl::on_signal() {
  signalfd_siginfo info{};
  bool quit = false;
  while (::read(signals_.get(), &info, sizeof info) == sizeof info) quit = true;
  if (quit && !broken_) handler_.on_drain({DrainOrder::Why::signalled, std::nullopt, std::chrono::milliseconds(0)});
}

void ChildControl::ready() {
  if (channel_.open()) channel_.send_body(Type::ready, Ready{gen_, resident_bytes()});
}

void ChildControl::drained(std::uint32_t left_connections, std::uint32_t left_unacked) {
  if (channel_.open()) channel_.send_body(Type::drained, Drained{left_connections, left_unacked});
}

void ChildControl::broken(Error why) {
  if (std::exchange(broken_, true)) return;
  handler_.on_broken(why);
}

void ChildControl::on_message(Message& message) {
  if (broken_) return;
  auto handled = handle(message);
  if (!handled) broken(std::move(handled.error()));
}

Result<> ChildControl::config_arrived(Message& message) {
  const auto config = message.as<Config>();
  if (config.kind != ConfigKind::snapshot) return {};  // tables come with what needs them
  auto text = read_sealed(message.fds[0].get(), config.len);
  if (!text) return std::unexpected(std::move(text.error()).in("configuration snapshot"));
  if (text->size() != config.len) {
    return std::unexpected(Error{Errc::protocol, "shorter than announced", "configuration snapshot"});
  }
  if (crypto::sha256({as_bytes(*text)}) != config.sha256) {
    return std::unexpected(Error{Errc::protocol, "the hash does not match", "configuration snapshot"});
  }
  return handler_.on_config(config.gen, *text);
}

Result<UpdateVerdict> ChildHandler::on_update_prepare(std::uint64_t, std::string_view) {
  return std::unexpected(Error{Errc::refused, "this process takes no new configuration", {}});
}

Result<> ChildControl::update_arrived(Message& message) {
  const auto update = message.as<ConfigUpdate>();
  if (self_ != Role::broker) {
    return std::unexpected(Error{Errc::protocol, "CONFIG_UPDATE is for brokers", "ctl"});
  }
  ConfigUpdate answer = update;
  answer.code = 0;
  std::string text;
  if (update.phase == UpdatePhase::prepare) {
    auto snapshot = read_sealed(message.fds[0].get(), kMaxSnapshot);
    const auto prepared = snapshot ? handler_.on_update_prepare(update.gen, *snapshot)
                                   : Result<UpdateVerdict>(std::unexpected(std::move(snapshot.error()).in("snapshot")));
    if (!prepared) {
      const Error& why = prepared.error();
      answer.code = 2;
      text = why.where.empty() ? why.what : why.where + ": " + why.what;
    } else if (!prepared->needs_restart.empty()) {
      answer.code = 1;
      text = prepared->needs_restart;
    }
    text.resize(std::min(text.size(), kMaxUpdateText));
  } else if (update.phase == UpdatePhase::commit) {
    handler_.on_update_commit(update.gen);
  } else {
    handler_.on_update_abort(update.gen);
  }
  channel_.send_body(Type::config_update_result, answer, {}, text);
  return {};
}

Result<> ChildControl::handle(Message& message) {
  switch (message.type()) {
    case Type::hello: {
      const auto hello = message.as<Hello>();
      if (hello.protocol != kProtocol) {
        return std::unexpected(
            Error{Errc::protocol, "the supervisor speaks protocol " + std::to_string(hello.protocol), "ctl"});
      }
      gen_ = hello.gen;
      return {};
    }
    case Type::logfd: handler_.on_log(message.as<LogFd>().which, std::move(message.fds[0])); return {};
    case Type::shm: {
      const auto shm = message.as<Shm>();
      return handler_.on_shm(shm.kind, std::move(message.fds[0]), shm.len);
    }
    case Type::config: return config_arrived(message);
    case Type::slot_grant: {
      const auto grants = message.records<SlotGrant>();
      for (std::size_t i = 0; i < grants.size(); ++i) handler_.on_slot(grants[i], std::move(message.fds[i]));
      return {};
    }
    case Type::slot_revoke: {
      const auto slots = message.records<SlotId>();
      for (const auto& slot : slots) handler_.on_slot_revoked(slot.slot);
      channel_.send_records(Type::slot_revoked, std::span<const SlotId>(slots));
      return {};
    }
    case Type::link_add: handler_.on_link(message.as<LinkAdd>(), std::move(message.fds[0])); return {};
    case Type::broker_state: handler_.on_broker_state(message.as<BrokerState>()); return {};
    case Type::start:
      handler_.on_start();
      channel_.send_body(Type::started, message.as<Gen>());
      return {};
    case Type::pause:
      handler_.on_pause();
      channel_.send_body(Type::paused, message.as<Gen>());
      return {};
    case Type::drain: {
      const auto drain = message.as<Drain>();
      DrainOrder order{DrainOrder::Why::ordered, std::nullopt, std::chrono::milliseconds(drain.jitter_ms)};
      if (drain.deadline_ms != 0) order.deadline = std::chrono::milliseconds(drain.deadline_ms);
      handler_.on_drain(order);
      return {};
    }
    case Type::ping: {
      const Vitals vitals = handler_.on_ping();
      channel_.send_body(Type::pong,
                         Pong{message.as<Ping>().t, vitals.loop_lag_us, vitals.connections, vitals.fds_free, 0});
      return {};
    }
    case Type::query: {
      if (query_.size() + message.body.size() > kMaxQuery) {
        return std::unexpected(Error{Errc::protocol, "a query above 64 KiB", "ctl"});
      }
      query_ += as_text(message.body);
      if (message.more()) return {};
      const std::string answer = handler_.on_query(std::exchange(query_, {}));
      if (channel_.send_long_text(Type::answer, answer) == Sent::illegal) {
        channel_.send_long_text(Type::answer, R"({"error":"the answer is too long"})");
      }
      return {};
    }
    case Type::config_update: return update_arrived(message);
    default: return {};  // SECRETS, COMMIT: nothing sends them before TLS and upgrade exist
  }
}

}  // namespace ebb::ipc
