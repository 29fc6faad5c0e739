// Loading of configurations and of the corpus under tests/vectors/configs.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/config/load.h"

namespace ebb::config {

inline const std::string kCorpus = "tests/vectors/configs/";

std::string slurp(const std::string& path);
/// One text named "test.json"; `environment` is all the loader sees of the process.
Loaded load_text(std::string text, std::map<std::string, std::string> environment = {});
/// One file of the corpus, by its path below it.
Loaded load_vector(const std::string& name);
std::string all_text(const Loaded& loaded);
/// Every finding as "CODE path line:column".
std::vector<std::string> short_forms(const Loaded& loaded);
bool has(const Loaded& loaded, const std::string& code, const std::string& path);

/// Canonical text parses, and gives itself again.
void expect_canonical_round_trip(const Config& config);

}  // namespace ebb::config
