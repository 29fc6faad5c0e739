// Where the configuration comes from: options, directories, environment, standard input. spec/config.md 2.2.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/config/load.h"

namespace ebb::config {

/// What the command line said about it.
struct Invocation {
  std::vector<std::string> configs;    // -config, -c, in order; "stdin:" is standard input
  std::optional<std::string> confdir;  // -confdir, -d
  bool recurse = false;                // -r: confdir's subdirectories too
};

/// What may be asked of the machine; tests pass their own.
struct Machine {
  Surroundings surroundings;
  std::string working_directory;     // for ./config.json and relative names; "" = the process's own
  std::string executable_directory;  // for the config.json beside the program
  std::function<Result<std::string>()> standard_input;
};
Machine this_machine();

struct Gathered {
  std::vector<SourceFile> files;        // what load() takes
  std::vector<Diagnostic> diagnostics;  // code FILE or UNSUPPORTED; not empty: exit 23, do not load
  std::string chosen;                   // for the log: "config.json", "3 files in /etc/v2ray", …
};

/// Finds and reads the files: named ones, then those of the directory in byte order of their names; with nothing named
/// ./config.json, then $V2RAY_LOCATION_CONFIG/config.json (without the variable, beside the program), then standard
/// input. Reads at most 64 MiB a file and 1000 files.
Gathered gather(const Invocation& invocation, const Machine& machine);

}  // namespace ebb::config
