// Words to the service manager (systemd): one datagram each to NOTIFY_SOCKET. spec/processes.md 11.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/fd.h"
#include "common/base/time.h"

namespace ebb::supervisor {

class ServiceManager {
 public:
  /// Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment: children shall not speak for us.
  /// Without them every call does nothing.
  static ServiceManager from_environment();

  /// `lines`: "READY=1", several joined by newlines. Best effort.
  void tell(std::string_view lines) const;
  /// "RELOADING=1" with the moment it asks for.
  void tell_reloading() const;
  /// "NAME=value" for the new supervisor of an upgrade, who will speak for the service.
  std::vector<std::string> environment() const;
  /// How often it wants to hear WATCHDOG=1 at least; half of that is a good pace.
  std::optional<Duration> watchdog() const { return watchdog_; }

 private:
  std::string path_;  // '@' first: abstract
  Fd socket_;
  std::optional<Duration> watchdog_;
};

}  // namespace ebb::supervisor
