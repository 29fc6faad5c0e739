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
/// Code that names a protocol outside the rooms where protocols are known: its own folders, the table, the words of the
/// configuration. Whoever adds one touches nothing else.
Complaints named_protocols(const Sources& sources);
/// Files that a folder reaches by includes, however indirectly, below another one.
Complaints reaches(const Sources& sources, std::string_view from, std::string_view to);
/// Headers that are slow to compile belong into one .cc.
Complaints heavy_headers(const Sources& sources);

/// Fields of ebbgate's own settings (structs of common/config/config.h) that nobody outside common/config reads, as
/// "Timers::udp_idle": they would be accepted and ignored. A reader sees config.h and names what holds the field.
Complaints unread_settings(const Sources& sources);

}  // namespace ebb::tree
