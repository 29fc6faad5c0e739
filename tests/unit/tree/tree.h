// The rules of the tree, checked on #include lines. Pure functions over file contents, so that each rule has a test
// that shows it failing.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ebb::tree {

struct Source {
  std::string path;  // from the repository root
  std::string text;
};
using Sources = std::vector<Source>;
using Complaints = std::vector<std::string>;

struct Include {
  std::string path;
  bool system = false;  // <…>
};
std::vector<Include> includes_of(std::string_view text);

/// All .h and .cc files below the given folder names.
Sources read_sources(const std::vector<std::string>& folders);

/// Dependencies point downwards only, and a quoted include is a path from the root to a file that exists.
Complaints upward_includes(const Sources& sources);
/// Folders that include each other, however indirectly.
Complaints folder_cycles(const Sources& sources);
/// Event loop or sockets in folders that must stay free of IO.
Complaints io_in_pure_code(const Sources& sources);
/// Headers that are slow to compile belong into one .cc.
Complaints heavy_headers(const Sources& sources);

/// Fields of ebbgate's own settings (structs of common/config/config.h) that nobody outside common/config reads, as
/// "Timers::udp_idle": they would be accepted and ignored.
Complaints unread_settings(const Sources& sources);

}  // namespace ebb::tree
