// A routing object of the vectors as rules. Only what the vectors contain; users' files go through common/config.
#pragma once

#include <string>
#include <vector>

#include "common/routing/rule.h"
#include "tests/support/vectors.h"

namespace ebb::routing {

/// routing.rules, then routing.settings.rules; fields the router does not know are left out.
std::vector<Rule> rules_from_json(const test::Json& routing);

}  // namespace ebb::routing
