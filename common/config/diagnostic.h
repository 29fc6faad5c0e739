// One finding about a configuration: where it is, what it is, what to write instead. spec/config.md 18, 19.
#pragma once

#include <cstdint>
#include <string>

namespace ebb::config {

enum class Severity : std::uint8_t { info, warning, error };

struct Diagnostic {
  Severity severity = Severity::error;
  bool refuses = false;  // `run` and `test` exit 23 because of it
  std::string code;      // "TYPE", "VALUE", "JSON_SYNTAX", …
  std::string file;
  std::string path;          // "$.inbounds[0].port"
  std::uint32_t line = 1;    // of the value; of the key for unknown keys; of the object's { for missing members
  std::uint32_t column = 1;  // Unicode characters, first is 1
  std::string message;       // what was found, what is allowed; secrets shortened
  std::string suggestion;    // may be empty

  /// "config.json:14:26: error: $.inbounds[1].protocol: unknown …\n    did you mean …"
  std::string text() const;
};

}  // namespace ebb::config
