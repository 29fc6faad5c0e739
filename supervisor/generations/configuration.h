// A configuration as the supervisor holds it, and how another one is obtained while the service runs.
#pragma once

#include <array>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/config/config.h"
#include "common/config/invocation.h"
#include "common/net/uv_loop.h"
#include "supervisor/generations/link.h"
#include "supervisor/generations/machine.h"
#include "supervisor/process/checker.h"
#include "supervisor/process/log_files.h"
#include "supervisor/slots/listeners.h"

namespace ebb::supervisor {

/// Why there is no reload and no upgrade of such a service.
inline constexpr std::string_view kTyped = "the configuration came from standard input, it cannot be read again";

/// The canonical JSON, sealed for children, and what the supervisor itself reads in it.
struct Snapshot {
  config::Config config;
  std::vector<Listener> listeners;
  Fd memfd;
  std::uint64_t bytes = 0;
  std::array<std::uint8_t, 32> sha256{};
};
/// Errors: os.
Result<std::shared_ptr<const Snapshot>> make_snapshot(std::string_view text, config::Config config);

/// Whether a bridge may register through this inbound: it authenticates, or anybody may (spec/reverse.md 4.6), or it
/// leads to a portal's own name. Rather too many than one too few.
bool may_carry_tunnels(const config::Config& config, std::size_t inbound);

struct Configuration {
  std::shared_ptr<const Snapshot> snapshot;
  Plan plan;
  std::shared_ptr<LogFiles> logs;  // shared by configurations with the same files
};

/// Reads the files of an invocation afresh: a checker child, then the verdict on the loop. spec/processes.md 9.1.
class Loader {
 public:
  struct Loaded {
    std::shared_ptr<const Snapshot> snapshot;
    std::string diagnostics;  // warnings
  };
  struct Refusal {
    int exit = 1;
    std::string text;
  };
  using Done = std::function<void(std::expected<Loaded, Refusal>)>;

  Loader(net::UvLoop& loop, const Binary& binary, config::Invocation invocation);
  ~Loader();

  /// `done` is called once, not before this returns; not at all after cancel(). One at a time.
  void start(Done done);
  void cancel();
  /// A process was collected: true when it was the checker.
  bool ended(pid_t pid, const ExitStatus& status);

 private:
  void on_readable();
  void finish(bool timed_out);
  void settle();

  net::UvLoop& loop_;
  const Binary& binary_;
  config::Invocation invocation_;
  std::unique_ptr<Checker> checker_;
  std::unique_ptr<Watch> watch_;
  Done done_;
  std::optional<std::expected<Loaded, Refusal>> verdict_;
  net::Timer limit_;
  net::Deferred settle_;
};

}  // namespace ebb::supervisor
