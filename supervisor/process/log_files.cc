#include "supervisor/process/log_files.h"

#include <fcntl.h>

#include "common/base/log.h"

namespace ebb::supervisor {

Result<LogFiles> open_logs(const config::Log& log) {
  LogFiles files;
  if (log.level == config::LogLevel::none) return files;
  const auto open = [](bool on, const std::string& path, const char* key, std::optional<Fd>& into) -> Result<> {
    if (!on) return {};
    auto opened = log::open_log(path);
    if (!opened) {
      const std::string what = std::string("cannot write the ") + key + " log: " + opened.error().what;
      return std::unexpected(Error{Errc::os, what, std::string("$.log.") + key});
    }
    into = std::move(*opened);
    return {};
  };
  if (auto done = open(log.error_on, log.error, "error", files.error); !done) return std::unexpected(done.error());
  if (auto done = open(log.access_on, log.access, "access", files.access); !done) return std::unexpected(done.error());
  return files;
}

bool same_files(const config::Log& a, const config::Log& b) {
  const bool none = a.level == config::LogLevel::none;
  if (none != (b.level == config::LogLevel::none)) return false;
  return none || (a.error_on == b.error_on && a.error == b.error && a.access_on == b.access_on && a.access == b.access);
}

std::optional<Fd> copy(const std::optional<Fd>& file) {
  if (!file) return std::nullopt;
  return Fd(::fcntl(file->get(), F_DUPFD_CLOEXEC, 3));
}

}  // namespace ebb::supervisor
