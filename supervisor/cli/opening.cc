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
  const auto fail = [&](std::string problem) {
    opened.problem = std::move(problem);
    std::fprintf(stderr, "%s\n", opened.problem.c_str());
    return std::move(opened);
  };
  auto verdict = check_configuration(binary, request);
  if (!verdict) {
    opened.exit = verdict.error().code == Errc::closed ? kExitOk : kExitStart;  // interrupted: as asked
    const auto& error = verdict.error();
    return fail("ebbgate: " + error.where + (error.where.empty() ? "" : ": ") + error.what);
  }
  opened.verdict = std::move(*verdict);
  std::fputs(opened.verdict.diagnostics.c_str(), stderr);
  opened.exit = kExitConfig;
  if (!opened.verdict.accepted) {
    opened.problem = opened.verdict.diagnostics;
    return opened;
  }
  auto config = config::parse_canonical(opened.verdict.snapshot);
  if (!config) {
    opened.exit = kExitStart;
    return fail("ebbgate: the canonical configuration does not parse: " + config.error().what);
  }
  auto logs = open_logs(config->log);
  if (!logs) return fail(opened.verdict.chosen + ": error: " + logs.error().where + ": " + logs.error().what);
  opened.logs = std::move(*logs);
  opened.exit = kExitOk;
  opened.config = std::move(*config);
  return opened;
}

}  // namespace ebb::supervisor
