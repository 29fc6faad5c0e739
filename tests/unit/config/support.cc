#include "tests/unit/config/support.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "common/config/canonical.h"

namespace ebb::config {

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << path;
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

Loaded load_text(std::string text, std::map<std::string, std::string> environment) {
  const Surroundings surroundings{[&](const std::string& name) -> std::optional<std::string> {
    const auto found = environment.find(name);
    return found == environment.end() ? std::nullopt : std::optional(found->second);
  }};
  return load({{"test.json", std::move(text)}}, surroundings);
}

Loaded load_vector(const std::string& name) {
  const auto slash = name.rfind('/');
  return load({{name.substr(slash + 1), slurp(kCorpus + name)}}, Surroundings{});
}

std::string all_text(const Loaded& loaded) {
  std::string out;
  for (const auto& diagnostic : loaded.diagnostics) out += diagnostic.text() + "\n";
  return out;
}

std::vector<std::string> short_forms(const Loaded& loaded) {
  std::vector<std::string> out;
  for (const auto& d : loaded.diagnostics) {
    out.push_back(d.code + " " + d.path + " " + std::to_string(d.line) + ":" + std::to_string(d.column));
  }
  return out;
}

bool has(const Loaded& loaded, const std::string& code, const std::string& path) {
  return std::any_of(loaded.diagnostics.begin(), loaded.diagnostics.end(),
                     [&](const Diagnostic& d) { return d.code == code && d.path == path; });
}

void expect_canonical_round_trip(const Config& config) {
  const std::string first = canonical_json(config, Secrets::keep);
  const auto again = parse_canonical(first);
  ASSERT_TRUE(again) << again.error().what << "\n" << first;
  EXPECT_EQ(canonical_json(*again, Secrets::keep), first);
}

}  // namespace ebb::config
