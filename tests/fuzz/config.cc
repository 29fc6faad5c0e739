// Any text ends in an answer; what loads has a canonical form that reads back as itself; what the pre-scan lets through
// the strict parser accepts.
#include <cassert>
#include <cstddef>
#include <cstdint>

#include "common/config/canonical.h"
#include "common/config/load.h"
#include "common/config/prescan.h"
#include "common/config/tree.h"

using namespace ebb::config;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::string scanned = text;
  const auto prescanned = prescan(scanned);
  assert(scanned.size() == text.size());
  if (!prescanned.fault && prescanned.first == '{') assert(!parse_tree(scanned, 0).failed);

  const auto loaded = load({{"fuzz", text}}, Surroundings{});
  bool refused = false;
  for (const auto& diagnostic : loaded.diagnostics) {
    refused = refused || diagnostic.refuses;
    assert(diagnostic.line >= 1 && diagnostic.column >= 1 && !diagnostic.text().empty());
  }
  assert(loaded.config.has_value() != refused);
  if (!loaded.config) return 0;
  const auto canonical = canonical_json(*loaded.config, Secrets::keep);
  const auto again = parse_canonical(canonical);
  assert(again);
  assert(canonical_json(*again, Secrets::keep) == canonical);
  return 0;
}
