// The admin protocol: one line of JSON each way. spec/processes.md 11.2.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace ebb::supervisor::admin {

inline constexpr std::size_t kMaxRequest = 64 * 1024;  // bytes, newline included

struct Request {
  std::string command;
  bool wait = true;   // reload, upgrade, drain broker: answer with its result
  bool now = false;   // stop: as TERM, else as QUIT
  std::string what;   // drain, kick: "tunnel", "user"; drain: "broker" too
  std::string which;  // its id or name
};
/// Errors: protocol, in words for the person who asked.
Result<Request> parse_request(std::string_view line);

/// `{"ok":true,"exit":0,"error":null,"result":…}` and a newline; `result` is JSON.
std::string reply_ok(std::string_view result);
/// `exit`: the status the asking command ends with.
std::string reply_error(int exit, std::string_view text);

/// A reply taken apart by the client.
struct Reply {
  bool ok = false;
  int exit = 1;
  std::string error;
  std::string result;  // JSON; empty when there is none
};
Result<Reply> parse_reply(std::string_view text);

}  // namespace ebb::supervisor::admin
