#include "common/config/config.h"

#include <unistd.h>

namespace ebb::config {

std::size_t most_memory(std::uint64_t configured) {
  if (configured != 0) return static_cast<std::size_t>(configured);
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) / 4 * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

const PolicyLevel& Config::level(std::uint32_t number) const {
  static const PolicyLevel kDefaults;
  const auto found = policy.find(number);
  return found == policy.end() ? kDefaults : found->second;
}

}  // namespace ebb::config
