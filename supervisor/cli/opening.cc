#include "supervisor/cli/opening.h"

#include <cstdio>

#include "common/config/canonical.h"
#include "supervisor/cli/commands.h"

namespace ebb::supervisor {
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
  auto logs = open_logs(config->log);
  if (!logs) {
    std::fprintf(stderr, "%s: error: %s: %s\n", opened.verdict.chosen.c_str(), logs.error().where.c_str(),
                 logs.error().what.c_str());
    return opened;
  }
  opened.logs = std::move(*logs);
  opened.exit = kExitOk;
  opened.config = std::move(*config);
  return opened;
}

}  // namespace ebb::supervisor
