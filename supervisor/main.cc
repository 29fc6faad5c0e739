// Every process of ebbgate begins here: the one place that knows all roles.
#include <fcntl.h>
#include <signal.h>

#include <cstdio>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/base/fd.h"
#include "supervisor/cli/cli.h"
#include "supervisor/cli/commands.h"
#include "supervisor/process/checker.h"
#include "supervisor/process/environment.h"
#include "supervisor/process/spawn.h"
#include "worker/broker/broker_main.h"
#include "worker/edge/worker_main.h"

namespace {

using namespace ebb;

/// A child started by the supervisor: ctl is fd 3, its adoption socket fd 4 (supervisor/README.md).
int run_role(std::string_view role, int argc, char** argv) {
  const std::string title = argv[0];
  const std::vector<std::string> arguments(argv + 2, argv + argc);
  Fd ctl(supervisor::kCtlFd);
  if (role == "checker") {
    supervisor::set_title(argc, argv, title, "ebbgate-checker");
    return supervisor::run_checker(std::move(ctl), Fd(supervisor::kCtlFd + 1), arguments);
  }
  constexpr int kAdoptionFd = supervisor::kCtlFd + 1;  // missing when it could not be made
  Fd adoption(::fcntl(kAdoptionFd, F_GETFD) >= 0 ? kAdoptionFd : -1);
  supervisor::raise_open_files();
  if (role == "worker") {
    supervisor::set_title(argc, argv, title, "ebbgate-worker");
    return edge::run_worker(std::move(ctl), std::move(adoption));
  }
  if (role == "broker") {
    supervisor::set_title(argc, argv, title, "ebbgate-broker");
    return broker::run_broker(std::move(ctl), std::move(adoption));
  }
  std::fprintf(stderr, "ebbgate: unknown role\n");
  return supervisor::kExitUsage;
}

}  // namespace

// What can be thrown here is bad_alloc, and then there is nothing better than to end.
int main(int argc, char** argv) {  // NOLINT(bugprone-exception-escape)
  ::signal(SIGPIPE, SIG_IGN);
  for (int fd = 0; fd <= 2; ++fd) {  // closed ones would be taken by a socket, and then written to
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) < 0) return supervisor::kExitStart;
  }
  constexpr std::string_view kRole = "--role=";
  if (argc > 1 && std::string_view(argv[1]).starts_with(kRole)) {
    return run_role(std::string_view(argv[1]).substr(kRole.size()), argc, argv);
  }
  const auto parsed = supervisor::parse_command_line(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
  if (const auto* usage = std::get_if<supervisor::Usage>(&parsed)) {
    std::fputs(usage->text.c_str(), usage->exit == 0 ? stdout : stderr);
    return usage->exit;
  }
  const auto& command = std::get<supervisor::Command>(parsed);
  switch (command.kind) {
    case supervisor::Command::Kind::run: return supervisor::run_service(command, argc, argv);
    case supervisor::Command::Kind::test: return supervisor::test_configuration(command);
    case supervisor::Command::Kind::check: return supervisor::analyse_configuration(command);
    case supervisor::Command::Kind::dump: return supervisor::dump_configuration(command);
    case supervisor::Command::Kind::version: return supervisor::print_version();
    case supervisor::Command::Kind::uuid: return supervisor::print_uuid();
    case supervisor::Command::Kind::ctl: return supervisor::control(command);
  }
  return supervisor::kExitUsage;
}
