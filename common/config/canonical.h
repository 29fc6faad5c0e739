// The configuration as canonical JSON: what the checker seals into the snapshot and every child parses.
// spec/config.md 2.6.
#pragma once

#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/config/config.h"

namespace ebb::config {

enum class Secrets : bool { keep, mask };

/// Canonical JSON; canonical in gives the same text out. `mask` shortens ids and passwords to four characters.
std::string canonical_json(const Config& config, Secrets secrets);

/// Reads a snapshot with the same parser users' files go through. What canonical_json() wrote has been accepted, so the
/// walk through the rules is not repeated: every process of a reload is here.
Result<Config> parse_canonical(std::string_view text);

}  // namespace ebb::config
