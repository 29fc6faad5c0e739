// What a person types, as a value. spec/config.md 2.1, 2.3.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "common/config/invocation.h"

namespace ebb::supervisor {

struct Command {
  enum class Kind : std::uint8_t { run, test, check, dump, version, uuid, ctl };
  Kind kind = Kind::run;
  config::Invocation invocation;
  std::string action;  // of ctl: "status", "reload", "upgrade", "drain", "kick", "reopen", "stop"
  std::string what;    // of ctl drain and kick: "tunnel", "user", "broker"
  std::string which;   // its id or name
  bool wait = true;    // of ctl reload, upgrade, drain broker
  bool now = false;    // of ctl stop
  std::string socket;  // of ctl: the admin socket, "" = found by configuration or alone on the machine
  bool json = false;   // of ctl and check
};

/// Nothing to do but say something: help (0) or a usage error (2).
struct Usage {
  int exit = 2;
  std::string text;
};

/// `arguments` without the program's name, V2Ray's forms too: one dash or two, `-flag=value`, no sub-command.
std::variant<Command, Usage> parse_command_line(std::vector<std::string> arguments);

}  // namespace ebb::supervisor
