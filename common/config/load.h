// From configuration text to Config, with every diagnostic at once. spec/config.md 2.4, 3, 19.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/config/config.h"
#include "common/config/diagnostic.h"

namespace ebb::config {

struct SourceFile {
  std::string name;  // as the user named it, for messages
  std::string text;
};

/// What the loader may ask of its surroundings; tests pass their own.
struct Surroundings {
  std::function<std::optional<std::string>(const std::string& name)> environment;
};
Surroundings process_surroundings();

struct Loaded {
  std::optional<Config> config;  // absent when any diagnostic refuses
  std::vector<Diagnostic> diagnostics;
};

/// How far load() looks. The walk through the rules (reach.h) tells a person what will not do as meant; `elements`
/// leaves it out, for a text that has been through it.
enum class Depth : std::uint8_t { elements, reach };

/// Parses and merges the files in order (spec/config.md 2.4), checks them, and reports everything found. Never throws.
Loaded load(std::vector<SourceFile> files, const Surroundings& surroundings, Depth depth = Depth::reach);

}  // namespace ebb::config
