#include "supervisor/generations/orphans.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

#include "common/base/bytes.h"
#include "common/base/log.h"
#include "common/config/canonical.h"
#include "ipc/memfd.h"

namespace ebb::supervisor {
namespace {

using Steady = std::chrono::steady_clock;

constexpr auto kLate = std::chrono::seconds(1);  // the machine stood still, so they could not answer either
constexpr std::size_t kMaxSnapshot = std::size_t{256} << 20;

struct Candidate {
  Registry::Entry entry;
  Process process;
  std::unique_ptr<ipc::Channel> channel;
  ipc::AdoptState state{};
  std::vector<Slot> slots;
  Fd replay, snapshot;
  bool answered = false;
  bool over = false;  // nothing more will come
};

ipc::Role role_of(const Registry::Entry& entry) {
  if (entry.role == "supervisor") return ipc::Role::supervisor;
  return entry.role == "broker" ? ipc::Role::broker : ipc::Role::worker;
}

std::optional<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return std::nullopt;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

/// `refused`: nobody listens there any more.
Fd connect_to(const std::string& path, bool& refused) {
  const auto address = address_of(path);
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!address || !fd || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(sockaddr_un)) != 0) {
    refused = errno == ECONNREFUSED || errno == ENOENT;
    return {};
  }
  ipc::widen_send_buffer(fd.get());
  return fd;
}

std::array<std::uint8_t, 16> bytes_of_instance(const std::string& hex) {
  std::array<std::uint8_t, 16> out{};
  const auto bytes = from_hex(hex);
  if (bytes && bytes->size() == out.size()) std::ranges::copy(*bytes, out.begin());
  return out;
}

void take_state(Candidate& one, ipc::Message& message) {
  one.state = message.as<ipc::AdoptState>();
  const auto records = message.records<ipc::AdoptSlot>(sizeof(ipc::AdoptState));
  for (std::size_t i = 0; i < records.size(); ++i) {
    one.slots.push_back({std::move(message.fds[i]), records[i].cookie, records[i].slot, records[i].listener});
  }
  std::size_t next = records.size();
  for (const auto kind : {ipc::ShmKind::stats, ipc::ShmKind::replay, ipc::ShmKind::quota, ipc::ShmKind::snapshot}) {
    if ((one.state.shm_kinds >> (static_cast<unsigned>(kind) - 1) & 1U) == 0) continue;
    Fd fd = std::move(message.fds[next++]);
    if (kind == ipc::ShmKind::replay) {
      one.replay = std::move(fd);
    } else if (kind == ipc::ShmKind::snapshot) {
      one.snapshot = std::move(fd);
    }
  }
  one.answered = !message.more();
}

void read(Candidate& one) {
  while (one.channel && !one.over && !one.answered) {
    ipc::ReadEnd end = ipc::ReadEnd::drained;
    auto message = one.channel->next(end);
    if (message && message->type() == ipc::Type::adopt_state) {
      take_state(one, *message);
    } else if (!message && end != ipc::ReadEnd::busy) {
      one.over = end != ipc::ReadEnd::drained;
      return;
    }
  }
}

/// The entries that dead ones of earlier upgrades have left, under keys that nobody has. Their pids; `paths` gets the
/// files.
std::set<pid_t> add_retired(Registry& registry, const std::string& directory, std::vector<std::string>& paths) {
  std::set<pid_t> pids;
  auto all = retired_registries(directory);
  std::set<std::pair<pid_t, std::uint64_t>> led;  // by a retired one that lives: it may have adopted them
  for (const auto& one : all) {
    for (const auto& entry : one.registry.entries) {
      if (one.alive) led.emplace(entry.pid, entry.started);
    }
  }
  for (auto& one : all) {
    if (one.alive) continue;
    paths.push_back(std::move(one.path));
    registry.gen = std::max(registry.gen, one.registry.gen);
    registry.broker = std::max(registry.broker, one.registry.broker);
    registry.key = std::max(registry.key, one.registry.key);
    registry.current = std::max(registry.current, one.registry.current);
    for (auto& entry : one.registry.entries) {
      const auto same = [&](const auto& e) { return e.pid == entry.pid && e.started == entry.started; };
      if (std::ranges::any_of(registry.entries, same) || led.contains({entry.pid, entry.started})) continue;
      do {
        entry.key = ++registry.key;
      } while ((entry.key & 0xFFFF) == 0);  // as Machine::next_key()
      pids.insert(entry.pid);
      registry.entries.push_back(std::move(entry));
    }
  }
  return pids;
}

/// Without a pidfd where it has ended.
Process process_of(const Registry::Entry& entry) {
  Process process{entry.pid, Fd(static_cast<int>(::syscall(SYS_pidfd_open, entry.pid, 0)))};
  if (process_start(entry.pid) != entry.started) process.pidfd.reset();
  return process;
}

Adopted adopted_supervisor(const Registry::Entry& entry, Process process) {
  Orphan orphan{ChildKey{entry.key}, ipc::Role::supervisor, 0, 0, entry.pid};
  orphan.retired = true;
  return {orphan, std::move(process), std::nullopt, ""};
}

/// Those of the registry that live; their ADOPT is on its way.
std::vector<Candidate> ask(const Registry& registry, const std::string& directory, const std::string& instance) {
  std::vector<Candidate> all;
  for (const auto& entry : registry.entries) {
    Candidate one;
    one.entry = entry;
    one.process = process_of(entry);
    const std::string path = directory + "/" + entry.socket;
    const bool alive = static_cast<bool>(one.process.pidfd);
    if (role_of(entry) == ipc::Role::supervisor) {  // it leads its own children until they are gone
      one.answered = true;
      if (alive) all.push_back(std::move(one));
      continue;
    }
    bool refused = !alive;
    Fd link = alive ? connect_to(path, refused) : Fd();
    if (refused) {  // dead, or leaving by itself
      ::unlink(path.c_str());
      continue;
    }
    if (!link) {
      log_event(log::Level::error, "supervisor", "a process cannot be asked now", kv("pid", entry.pid),
                kv("reason", std::strerror(errno)));
      all.push_back(std::move(one));
      continue;
    }
    one.channel = std::make_unique<ipc::Channel>(std::move(link), ipc::Link::adoption, ipc::Role::supervisor,
                                                 role_of(entry), ipc::Channel::Options{.max_queued_fds = 4096});
    one.channel->send_body(ipc::Type::adopt, ipc::Adopt{bytes_of_instance(instance), registry.gen});
    all.push_back(std::move(one));
  }
  return all;
}

void wait_for_all(std::vector<Candidate>& all, std::chrono::milliseconds limit) {
  auto deadline = Steady::now() + limit;
  for (bool stood_still = false;;) {
    std::vector<pollfd> waiting;
    for (auto& one : all) {
      read(one);
      if (one.channel && !one.answered && !one.over) waiting.push_back({one.channel->fd(), POLLIN, 0});
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Steady::now()).count();
    if (waiting.empty() || left <= 0) return;
    const auto latest = Steady::now() + std::chrono::milliseconds(left) + kLate;
    ::poll(waiting.data(), waiting.size(), static_cast<int>(left));
    if (Steady::now() > latest && !std::exchange(stood_still, true)) deadline = Steady::now() + limit;
  }
}

/// Without an answer it can neither be led nor replaced in peace.
void give_up(const Candidate& one, const std::string& directory) {
  if (!one.channel) return;  // that was our own fault
  const bool other = one.channel->fault() == ipc::FaultCode::bad_protocol;
  const bool hangs = !one.over;
  if (!other && !hangs) return;  // it ended
  log_event(log::Level::error, "supervisor",
            other ? "a process speaks another protocol: it is told to leave"
                  : "a process does not let itself be adopted: it is killed",
            kv("role", one.entry.role), kv("pid", one.entry.pid));
  ::syscall(SYS_pidfd_send_signal, one.process.pidfd.get(), other ? SIGQUIT : SIGKILL, nullptr, 0);
  ::unlink((directory + "/" + one.entry.socket).c_str());
}

void take_slots(std::vector<Slot>& all, std::vector<Slot>& from) {
  for (auto& slot : from) {
    const bool known = std::ranges::any_of(all, [&](const Slot& one) { return one.cookie == slot.cookie; });
    if (!known) all.push_back(std::move(slot));
  }
}

std::shared_ptr<const Snapshot> read_snapshot(int memfd) {
  const auto text = ipc::read_sealed(memfd, kMaxSnapshot);
  if (!text) return nullptr;
  auto config = config::parse_canonical(*text);
  if (!config) return nullptr;
  auto snapshot = make_snapshot(*text, std::move(*config));
  return snapshot ? *snapshot : nullptr;
}

}  // namespace

void sweep_adoption_sockets(const std::string& directory, const std::optional<Adoption>& adoption) {
  std::set<std::string> needed;
  if (adoption) {
    for (const auto& one : adoption->processes) needed.insert(one.socket);
  }
  for (const auto& retired : retired_registries(directory)) {  // also of one that has died since
    if (adoption && std::ranges::find(adoption->left, retired.path) != adoption->left.end()) continue;
    for (const auto& entry : retired.registry.entries) needed.insert(entry.socket);
  }
  sweep_retired_drafts(directory);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kSocketPrefix) && !needed.contains(name)) ::unlink(entry.path().c_str());
  }
}

std::optional<Adoption> adopt_orphans(const std::string& directory, const std::string& instance,
                                      const AdoptOptions& options) {
  Adoption out;
  Registry registry = options.in_charge ? read_registry(directory + "/registry").value_or(Registry{}) : Registry{};
  const auto retired = add_retired(registry, directory, out.left);
  const auto alone = [&](const auto& entry) { return options.leave_alone && options.leave_alone(entry.pid); };
  std::erase_if(registry.entries, alone);
  auto all = ask(registry, directory, instance);
  wait_for_all(all, options.limit);
  out.used = {registry.key, registry.gen, registry.broker};
  out.current = registry.current;
  std::shared_ptr<const Snapshot> of_broker;
  std::uint64_t serving = 0;
  for (auto& one : all) {
    if (!one.answered) {
      out.more |= options.patient && !one.over;
      if (!options.patient || one.over) give_up(one, directory);
      continue;
    }
    const Registry::Entry& entry = one.entry;
    if (role_of(entry) == ipc::Role::supervisor) {
      out.processes.push_back(adopted_supervisor(entry, std::move(one.process)));
      continue;
    }
    const bool serves = !one.slots.empty();
    const bool worker = role_of(entry) == ipc::Role::worker;
    if (worker && serves) serving = std::max(serving, entry.gen);
    if (worker && one.snapshot && !out.snapshots.contains(entry.gen)) {
      if (auto snapshot = read_snapshot(one.snapshot.get())) out.snapshots[entry.gen] = std::move(snapshot);
    }
    if (!worker && one.snapshot) of_broker = read_snapshot(one.snapshot.get());
    take_slots(out.slots, one.slots);
    if (one.replay && !out.replay) out.replay = std::move(one.replay);
    Orphan orphan{ChildKey{entry.key}, role_of(entry), entry.gen, entry.index, entry.pid, one.state.conns};
    orphan.link_id = static_cast<std::uint16_t>(entry.link_id);
    orphan.serves = serves;
    orphan.retired = retired.contains(entry.pid);
    out.processes.push_back({orphan, std::move(one.process), std::move(*one.channel), entry.socket});
  }
  if (out.more) out.left.clear();  // they are to be found again
  if (out.processes.empty() && !out.more) {
    for (const auto& path : out.left) ::unlink(path.c_str());
    return std::nullopt;
  }
  // Not always what the registry says: it may have died between START and COMMIT of a reload, or as it rolled one back.
  if (serving != 0) out.current = serving;
  if (!out.snapshots.contains(out.current) && of_broker) out.snapshots[out.current] = of_broker;
  std::ranges::sort(out.slots, {}, &Slot::id);
  return out;
}

std::vector<Adopted> living_supervisors(const std::string& registry, const std::function<bool(pid_t)>& leave_alone) {
  std::vector<Adopted> all;
  const auto known = read_registry(registry);
  if (!known) return all;
  for (const auto& entry : known->entries) {
    if (role_of(entry) != ipc::Role::supervisor || leave_alone(entry.pid)) continue;
    Process process = process_of(entry);
    if (process.pidfd) all.push_back(adopted_supervisor(entry, std::move(process)));
  }
  return all;
}

Result<Fd> make_adoption_socket(const std::string& path) {
  const auto fail = [&](int code) { return std::unexpected(Error{Errc::os, path + ": " + std::strerror(code), {}}); };
  const auto address = address_of(path);
  if (!address) return fail(ENAMETOOLONG);
  ::unlink(path.c_str());
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return fail(errno);
  const mode_t mask = ::umask(0177);
  const int bound = ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(sockaddr_un));
  const int code = errno;
  ::umask(mask);
  if (bound != 0) return fail(code);
  if (::listen(fd.get(), 64) != 0) return fail(errno);
  return fd;
}

}  // namespace ebb::supervisor
