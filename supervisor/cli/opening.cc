#include "supervisor/cli/opening.h"

#include <cstdio>

#include "common/base/log.h"
#include "common/config/canonical.h"
#include "supervisor/cli/commands.h"

namespace ebb::supervisor {
namespace {

/// False when a file cannot be had; says so.
bool open_one(bool on, const std::string& path, const char* key, const std::string& file, std::optional<Fd>& into) {
  if (!on) return true;
  auto opened = log::open_log(path);
  if (opened) {
    into = std::move(*opened);
    return true;
  }
  std::fprintf(stderr, "%s: error: $.log.%s: cannot write the %s log: %s\n", file.c_str(), key, key,
               opened.error().what.c_str());
  return false;
}

}  // namespace

Opened open_configuration(const Binary& binary, const config::Invocation& invocation, int interrupt) {
  Opened opened;
  CheckRequest request;
  request.invocation = invocation;
  request.interrupt = interrupt;
  auto verdict = check_configuration(binary, request);
  if (!verdict) {
    opened.exit = verdict.error().code == Errc::closed ? kExitOk : kExitStart;  // interrupted: as asked
    const auto& error = verdict.error();
    std::fprintf(stderr, "ebbgate: %s%s%s\n", error.where.c_str(), error.where.empty() ? "" : ": ", error.what.c_str());
    return opened;
  }
  opened.verdict = std::move(*verdict);
  std::fputs(opened.verdict.diagnostics.c_str(), stderr);
  opened.exit = kExitConfig;
  if (!opened.verdict.accepted) return opened;
  auto config = config::parse_canonical(opened.verdict.snapshot);
  if (!config) {
    opened.exit = kExitStart;
    std::fprintf(stderr, "ebbgate: the canonical configuration does not parse: %s\n", config.error().what.c_str());
    return opened;
  }
  const auto& wanted = config->log;
  const bool any = wanted.level != config::LogLevel::none;
  if (!open_one(any && wanted.error_on, wanted.error, "error", opened.verdict.chosen, opened.logs.error) ||
      !open_one(any && wanted.access_on, wanted.access, "access", opened.verdict.chosen, opened.logs.access)) {
    return opened;
  }
  opened.exit = kExitOk;
  opened.config = std::move(*config);
  return opened;
}

}  // namespace ebb::supervisor
