#include "supervisor/process/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace ebb::supervisor {
namespace {

std::string take_variable(const char* name) {
  const char* value = ::getenv(name);
  std::string text = value == nullptr ? "" : value;
  ::unsetenv(name);
  return text;
}

std::uint64_t number(const std::string& text) {
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

}  // namespace

ServiceManager ServiceManager::from_environment() {
  ServiceManager manager;
  manager.path_ = take_variable("NOTIFY_SOCKET");
  const std::uint64_t usec = number(take_variable("WATCHDOG_USEC"));
  const std::string pid = take_variable("WATCHDOG_PID");
  if (manager.path_.size() < 2 || manager.path_.size() >= sizeof(sockaddr_un::sun_path)) return manager;
  manager.socket_ = Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const bool ours = pid.empty() || number(pid) == static_cast<std::uint64_t>(::getpid());
  if (usec > 0 && ours) manager.watchdog_ = std::chrono::microseconds(usec);
  return manager;
}

std::vector<std::string> ServiceManager::environment() const {
  std::vector<std::string> out;
  if (!path_.empty()) out.push_back("NOTIFY_SOCKET=" + path_);
  if (watchdog_) {
    out.push_back("WATCHDOG_USEC=" +
                  std::to_string(std::chrono::duration_cast<std::chrono::microseconds>(*watchdog_).count()));
  }
  return out;
}

void ServiceManager::tell(std::string_view lines) const {
  if (!socket_) return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path_.data(), path_.size());
  if (path_[0] == '@') address.sun_path[0] = '\0';
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path_.size());
  ::sendto(socket_.get(), lines.data(), lines.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address), size);
}

void ServiceManager::tell_reloading() const {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const auto usec = static_cast<std::int64_t>(now.tv_sec) * 1'000'000 + now.tv_nsec / 1000;
  tell("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(usec));
}

}  // namespace ebb::supervisor
