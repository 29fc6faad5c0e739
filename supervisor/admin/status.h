// `ctl status`: gathered by the supervisor as JSON, shown by the client as a table. spec/processes.md 11.2.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/config/config.h"
#include "supervisor/generations/runner.h"

namespace ebb::supervisor::admin {

struct StatusInput {
  std::uint64_t generation = 0;
  int pid = 0;             // the supervisor's
  std::string_view phase;  // its state in words
  std::string_view reload_step = "idle";
  std::string_view last_reload;  // "" before the first, "ok", or why not
  // Workers answer {"connections":N,"counts":{…}}, brokers {"connections":N,"counts":{…},"portals":[…],"bridges":[…]}.
  std::vector<ChildAnswer> children;
  std::optional<ipc::ReplayTable::Counts> replays;  // of all workers together, since the table was made
  const std::vector<Listener>* listeners = nullptr;
  const config::Config* config = nullptr;
};

/// The `result` object. A child that did not answer is marked `"answered":false`; portals and bridges are then listed
/// as configured, with `"tunnels":[]` and the same mark.
std::string status_json(const StatusInput& input);

/// The answer to `kick` and `drain` in words: "2 tunnels, 5 visitors".
std::string removal_text(std::string_view result_json);

/// The table a person reads. Errors: protocol, when it is not such an object.
Result<std::string> status_text(std::string_view result_json);

}  // namespace ebb::supervisor::admin
