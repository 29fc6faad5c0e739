#include "ipc/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "common/crypto/hash.h"
#include "ipc/memfd.h"

namespace ebb::ipc {
namespace {

constexpr std::size_t kMaxQuery = 64 * 1024;  // what the admin socket takes; a child never has to store more
constexpr std::size_t kMaxStats = 255;        // records of one STATS
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

/// Only a SEQPACKET listener of the unix family can let a supervisor in. It is shared with who made it, who never
/// accepts.
Fd usable_listener(Fd socket) {
  const auto option = [&](int name) {
    int value = -1;
    socklen_t size = sizeof value;
    return ::getsockopt(socket.get(), SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
  };
  if (!socket || option(SO_DOMAIN) != AF_UNIX || option(SO_TYPE) != SOCK_SEQPACKET || option(SO_ACCEPTCONN) != 1) {
    return {};
  }
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0) return {};
  return socket;
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

ChildControl::ChildControl(Fd ctl, Role self, ChildHandler& handler, Fd adoption, std::function<TimePoint()> now)
    : channel_(std::make_unique<Channel>(std::move(ctl), Link::ctl, self, Role::supervisor)),
      handler_(handler),
      self_(self),
      adoption_(usable_listener(std::move(adoption))),
      now_(std::move(now)),
      signals_(take_child_signals()) {
  Hello hello;
  hello.role = self;
  hello.pid = static_cast<std::uint32_t>(::getpid());
  channel_->send_body(Type::hello, hello);
}

void ChildControl::on_readable() {
  retired_.reset();
  while (channel_ && !broken_) {
    const ReadEnd end = channel_->on_readable([this](Message& message) { on_message(message); });
    if (end == ReadEnd::busy) continue;
    if (end == ReadEnd::eof || end == ReadEnd::fault) link_over(end);
    return;
  }
}

void ChildControl::on_writable() {
  if (channel_) channel_->on_writable();
}

void ChildControl::on_signal() {
  signalfd_siginfo info{};
  bool quit = false;
  while (::read(signals_.get(), &info, sizeof info) == sizeof info) quit = true;
  if (quit && !broken_) handler_.on_drain({DrainOrder::Why::signalled, std::nullopt, std::chrono::milliseconds(0)});
}

void ChildControl::ready() {
  if (channel_) channel_->send_body(Type::ready, Ready{gen_, resident_bytes()});
}

void ChildControl::drained(std::uint32_t left_connections, std::uint32_t left_unacked) {
  if (channel_) channel_->send_body(Type::drained, Drained{left_connections, left_unacked});
}

void ChildControl::report(const Stat& stat) {
  if (state_ == State::attached && channel_) {
    channel_->send_records(Type::stats, std::span<const Stat>(&stat, 1));
  } else if (unsent_.size() < kMaxStats) {
    unsent_.push_back(stat);
  }
}

void ChildControl::broken(const Error& why) {
  if (std::exchange(broken_, true)) return;
  handler_.on_broken(why);
}

void ChildControl::on_message(Message& message) {
  if (broken_) return;
  auto handled = handle(message);
  if (!handled) broken(handled.error());
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
  snapshot_ = Snapshot{config.gen, std::move(message.fds[0]), config.sha256};
  return handler_.on_config(config.gen, *text);
}

Result<> ChildControl::shm_arrived(Message& message) {
  const auto shm = message.as<Shm>();
  Fd copy(::fcntl(message.fds[0].get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return std::unexpected(Error{Errc::os, "no descriptor is left", "shared memory"});
  memory_[shm.kind] = std::move(copy);
  return handler_.on_shm(shm.kind, std::move(message.fds[0]), shm.len);
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
    prepared_.reset();
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
    if (answer.code < 2) {
      prepared_ = Snapshot{update.gen, std::move(message.fds[0]), crypto::sha256({as_bytes(*snapshot)})};
    }
  } else if (update.phase == UpdatePhase::commit) {
    if (prepared_ && prepared_->gen == update.gen) snapshot_ = std::exchange(prepared_, std::nullopt);
    handler_.on_update_commit(update.gen);
  } else {
    prepared_.reset();
    handler_.on_update_abort(update.gen);
  }
  channel_->send_body(Type::config_update_result, answer, {}, text);
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
    case Type::shm: return shm_arrived(message);
    case Type::config: return config_arrived(message);
    case Type::slot_grant: {
      const auto grants = message.records<SlotGrant>();
      for (std::size_t i = 0; i < grants.size(); ++i) handler_.on_slot(grants[i], std::move(message.fds[i]));
      return {};
    }
    case Type::slot_revoke: {
      const auto slots = message.records<SlotId>();
      for (const auto& slot : slots) handler_.on_slot_revoked(slot.slot);
      channel_->send_records(Type::slot_revoked, std::span<const SlotId>(slots));
      return {};
    }
    case Type::link_add: handler_.on_link(message.as<LinkAdd>(), std::move(message.fds[0])); return {};
    case Type::broker_state: handler_.on_broker_state(message.as<BrokerState>()); return {};
    case Type::start:
      handler_.on_start();
      channel_->send_body(Type::started, message.as<Gen>());
      return {};
    case Type::pause:
      handler_.on_pause();
      channel_->send_body(Type::paused, message.as<Gen>());
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
      const auto lag = std::chrono::duration_cast<std::chrono::microseconds>(vitals.loop_lag).count();
      const auto lag_us = static_cast<std::uint32_t>(std::clamp<std::int64_t>(lag, 0, 0xffffffff));
      channel_->send_body(Type::pong, Pong{message.as<Ping>().t, lag_us, vitals.connections, vitals.fds_free, 0});
      return {};
    }
    case Type::query: {
      if (query_.size() + message.body.size() > kMaxQuery) {
        return std::unexpected(Error{Errc::protocol, "a query above 64 KiB", "ctl"});
      }
      query_ += as_text(message.body);
      if (message.more()) return {};
      const std::string answer = handler_.on_query(std::exchange(query_, {}));
      if (channel_->send_long_text(Type::answer, answer) == Sent::illegal) {
        channel_->send_long_text(Type::answer, R"({"error":"the answer is too long"})");
      }
      return {};
    }
    case Type::config_update: return update_arrived(message);
    case Type::commit: committed_ = true; return {};
    case Type::fault:  // it hangs up on us and lives: nobody would adopt us
      if (state_ == State::attached) committed_ = false;
      return {};
    case Type::adopt: adopted(); return {};
    default: return {};  // SECRETS: nothing sends them before TLS exists
  }
}

}  // namespace ebb::ipc
