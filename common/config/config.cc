#include "common/config/config.h"

namespace ebb::config {

const PolicyLevel& Config::level(std::uint32_t number) const {
  static const PolicyLevel kDefaults;
  const auto found = policy.find(number);
  return found == policy.end() ? kDefaults : found->second;
}

}  // namespace ebb::config
