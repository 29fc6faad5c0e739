#include "common/config/diagnostic.h"

namespace ebb::config {

std::string Diagnostic::text() const {
  constexpr const char* kNames[] = {"info", "warning", "error"};
  std::string out = file + ":" + std::to_string(line) + ":" + std::to_string(column) + ": " +
                    kNames[static_cast<int>(severity)] + ": " + path + ": " + message;
  if (!suggestion.empty()) out += "\n    " + suggestion;
  return out;
}

}  // namespace ebb::config
