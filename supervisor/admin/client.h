// The asking side of the admin socket, for `ebbgate ctl`.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace ebb::supervisor::admin {

/// Sends one line and waits for the reply. Errors: os, refused (nobody listens there), timeout, with the path.
Result<std::string> ask(const std::string& socket_path, std::string_view line, std::chrono::milliseconds limit);

}  // namespace ebb::supervisor::admin
