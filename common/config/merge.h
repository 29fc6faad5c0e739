// Several files, and the legacy spellings of one, as one set of sections. spec/config.md 2.4 and 5.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/config/reader.h"

namespace ebb::config {

struct Sections {
  std::map<std::string, Value> named;  // "log", "routing", …: the last file that has one
  std::vector<Value> inbounds;
  std::vector<Value> outbounds;
  std::optional<Value> legacy_port;  // top-level `port`

  const Value* find(const std::string& name) const {
    const auto found = named.find(name);
    return found == named.end() ? nullptr : &found->second;
  }
};

/// `roots`: the top-level objects in file order. Reports unknown and refused top-level keys.
Sections merge(const std::vector<Value>& roots, const std::vector<SourceFile>& files);

}  // namespace ebb::config
