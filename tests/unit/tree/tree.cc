#include "tests/unit/tree/tree.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <regex>
#include <set>
#include <sstream>

namespace ebb::tree {
namespace {

struct Layer {
  std::string_view folder;
  std::vector<std::string_view> below;  // what it may include, apart from itself
};

/// The first entry whose folder is a prefix counts. supervisor/main.cc is where supervisor and worker meet.
const std::vector<Layer>& layers() {
  static const std::vector<Layer> table{
      {"common/base", {}},
      {"common/crypto", {"common/base"}},
      {"common/routing", {"common/base"}},
      {"common/net", {"common/base"}},
      {"common/config", {"common/base", "common/crypto", "common/routing"}},
      {"common/protocol", {"common/base", "common/crypto"}},
      {"common/reverse", {"common/base", "common/crypto", "common/protocol"}},
      {"common/transport", {"common/base", "common/crypto", "common/protocol", "common/net"}},
      {"ipc", {"common"}},
      {"worker", {"common", "ipc"}},
      {"supervisor/main.cc", {"common", "ipc", "worker", "supervisor"}},
      {"supervisor", {"common", "ipc"}},
      {"tests", {"common", "ipc", "worker", "supervisor"}},
  };
  return table;
}

bool below(std::string_view path, std::string_view folder) {
  return path.starts_with(folder) && (path.size() == folder.size() || path[folder.size()] == '/');
}

bool is_test(const Source& source) { return below(source.path, "tests"); }

std::string folder_of(std::string_view path) { return std::string(path.substr(0, path.rfind('/'))); }

const std::vector<std::string_view> kPureFolders{"common/protocol", "common/reverse", "common/routing",
                                                 "common/config"};

}  // namespace

std::vector<Include> includes_of(std::string_view text) {
  static const std::regex line(R"(^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">])", std::regex::multiline);
  std::vector<Include> out;
  for (auto it = std::cregex_iterator(text.data(), text.data() + text.size(), line); it != std::cregex_iterator(); ++it)
    out.push_back({(*it)[2], (*it)[1] == "<"});
  return out;
}

Sources read_sources(const std::vector<std::string>& folders) {
  Sources out;
  for (const std::string& folder : folders) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      const auto extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc") continue;
      std::stringstream text;
      text << std::ifstream(entry.path()).rdbuf();
      out.push_back({entry.path().generic_string(), text.str()});
    }
  }
  std::ranges::sort(out, {}, &Source::path);
  return out;
}

Complaints upward_includes(const Sources& sources) {
  std::set<std::string_view> paths;
  for (const Source& source : sources) paths.insert(source.path);
  Complaints out;
  for (const Source& source : sources) {
    const auto layer = std::ranges::find_if(layers(), [&](const Layer& l) { return below(source.path, l.folder); });
    if (layer == layers().end()) {
      out.push_back(source.path + " is in no folder of the map");
      continue;
    }
    for (const Include& include : includes_of(source.text)) {
      if (include.system) continue;
      const auto covers = [&](std::string_view folder) { return below(include.path, folder); };
      if (!paths.contains(include.path))
        out.push_back(source.path + " includes " + include.path + ", which is not there");
      else if (!covers(layer->folder) && std::ranges::none_of(layer->below, covers))
        out.push_back(source.path + " includes " + include.path + ", which is not below it");
    }
  }
  return out;
}

Complaints folder_cycles(const Sources& sources) {
  std::map<std::string, std::map<std::string, std::string>> edges;  // folder -> folder -> a file that shows it
  for (const Source& source : sources) {
    if (is_test(source) || source.path == "supervisor/main.cc") continue;
    for (const Include& include : includes_of(source.text))
      if (!include.system && folder_of(include.path) != folder_of(source.path))
        edges[folder_of(source.path)].try_emplace(folder_of(include.path), source.path);
  }
  Complaints out;
  std::set<std::string> finished;
  std::vector<std::string> path;
  const std::function<void(const std::string&)> visit = [&](const std::string& folder) {
    if (finished.contains(folder)) return;
    if (const auto start = std::ranges::find(path, folder); start != path.end()) {
      std::string cycle;
      for (auto step = start; step != path.end(); ++step) {
        const std::string& next = step + 1 == path.end() ? folder : *(step + 1);
        cycle += *step + " -> " + next + " (" + edges[*step][next] + "); ";
      }
      out.push_back(cycle);
      return;
    }
    path.push_back(folder);
    if (const auto found = edges.find(folder); found != edges.end())
      for (const auto& [next, file] : found->second) visit(next);
    path.pop_back();
    finished.insert(folder);
  };
  std::vector<std::string> folders;
  for (const auto& [folder, targets] : edges) folders.push_back(folder);
  for (const std::string& folder : folders) visit(folder);
  return out;
}

Complaints io_in_pure_code(const Sources& sources) {
  static const std::set<std::string_view> headers{"uv.h",         "poll.h",        "netdb.h",       "sys/socket.h",
                                                  "sys/un.h",     "sys/epoll.h",   "sys/select.h",  "arpa/inet.h",
                                                  "netinet/in.h", "netinet/tcp.h", "netinet/udp.h", "sys/poll.h"};
  static const std::regex call(
      R"((^|[^A-Za-z0-9_>])::(socket|socketpair|connect|bind|listen|accept4?|send|sendto|sendmsg|recv|recvfrom|recvmsg|getaddrinfo|setsockopt|poll|epoll_wait)\s*\()");
  Complaints out;
  for (const Source& source : sources) {
    if (std::ranges::none_of(kPureFolders, [&](std::string_view folder) { return below(source.path, folder); }))
      continue;
    for (const Include& include : includes_of(source.text))
      if (headers.contains(include.path)) out.push_back(source.path + " includes " + include.path);
    std::smatch found;
    if (std::regex_search(source.text, found, call)) out.push_back(source.path + " calls ::" + found[2].str() + "()");
  }
  return out;
}

Complaints named_protocols(const Sources& sources) {
  // What has to know a protocol's name. A word in a comment counts: it would have to be changed as well.
  static const std::vector<std::string_view> rooms{
      "common/protocol/vmess",        // the protocol itself, without IO
      "worker/layers/vmess",          // what it does to bytes
      "worker/inbound/vmess",         // its handshake
      "worker/inbound/replay_guard",  // what its handshake must not see twice
      "worker/outbound/vmess",        // its dialling
      "worker/protocols/table",       // the one list
      "common/config",                // the words of the user's file
      "common/base/log.h",
      "common/base/time.h",
      "common/crypto/uuid.h",  // an example, a use and a source, in comments
  };
  constexpr std::string_view kName = "vmess";
  const auto same = [](char a, char b) { return std::tolower(static_cast<unsigned char>(a)) == b; };
  Complaints out;
  for (const Source& source : sources) {
    if (is_test(source)) continue;
    if (std::ranges::any_of(rooms, [&](std::string_view room) { return source.path.starts_with(room); })) continue;
    std::istringstream lines(source.text);
    std::string line;
    for (int number = 1; std::getline(lines, line); ++number)
      if (!std::ranges::search(line, kName, same).empty())
        out.push_back(source.path + ":" + std::to_string(number) + " " + line);
  }
  return out;
}

Complaints reaches(const Sources& sources, std::string_view from, std::string_view to) {
  std::map<std::string, const Source*> by_path;
  for (const Source& source : sources) by_path[source.path] = &source;
  Complaints out;
  std::set<std::string> seen;
  const std::function<void(const Source&, const std::string&)> visit = [&](const Source& source,
                                                                           const std::string& way) {
    if (!seen.insert(source.path).second) return;
    const std::string here = way.empty() ? source.path : way + " -> " + source.path;
    if (below(source.path, to)) {
      out.push_back(here);
      return;
    }
    for (const Include& include : includes_of(source.text))
      if (const auto next = by_path.find(include.path); !include.system && next != by_path.end())
        visit(*next->second, here);
  };
  for (const Source& source : sources)
    if (folder_of(source.path) == from) visit(source, {});
  return out;
}

Complaints heavy_headers(const Sources& sources) {
  Complaints out;
  for (const std::string_view heavy : {"CLI", "re2", "spdlog"}) {
    std::vector<std::string> users;
    for (const Source& source : sources) {
      if (is_test(source)) continue;
      const auto includes = includes_of(source.text);
      if (std::ranges::any_of(includes, [&](const Include& include) { return below(include.path, heavy); }))
        users.push_back(source.path);
    }
    for (const std::string& user : users)
      if (user.ends_with(".h")) out.push_back(user + " is a header and includes " + std::string(heavy));
    if (users.size() < 2) continue;
    std::string all = std::string(heavy) + " is included by more than one file:";
    for (const std::string& user : users) all += " " + user;
    out.push_back(all);
  }
  return out;
}

namespace {

/// Whoever sees `header`, himself or by what he includes.
std::set<std::string> includers_of(const std::string& header, const Sources& sources) {
  std::set<std::string> out{header};
  for (std::size_t before = 0; before != out.size();) {
    before = out.size();
    for (const Source& source : sources)
      if (std::ranges::any_of(includes_of(source.text), [&](const Include& each) { return out.contains(each.path); }))
        out.insert(source.path);
  }
  return out;
}

}  // namespace

Complaints unread_settings(const Sources& sources) {
  static const std::regex field(R"(^  [A-Za-z][\w:<>]* (\w+)(\{[^;]*\}| = [^;]*)?;)", std::regex::multiline);
  const std::string config = "common/config/config.h";
  const auto header = std::ranges::find(sources, config, &Source::path);
  if (header == sources.end()) return {config + " is not there"};
  const auto sees_config = includers_of(config, sources);
  struct Holder {
    std::string_view name;
    std::string variable;   // what a value of it is called; such a name means it only where the configuration is known,
    std::string_view room;  // and a general one means it only in files that have this in their path
    std::string_view in_its_room;
  };
  const std::vector<Holder> holders{
      {"Limits", R"(\blimits_?(\(\))?)", "", ""},
      {"Timers", R"(\btimers_?(\(\))?)", "", ""},
      {"Settings", R"(\bsettings_?(\(\))?)", "", ""},
      {"Portal", R"(\b(config_)?portal_?(\(\))?)", "portal", R"(\bsettings_?(\(\))?)"},
      {"Bridge", R"(\b(config_)?bridge_?(\(\))?)", "bridge", R"(\bsettings_?(\(\))?)"},
  };
  const auto read = [&](const std::string& name, const Holder& holder) {
    const std::string member = "(\\.|->)" + name + "\\b";
    const std::regex use(holder.variable + member), use_in_its_room(std::string(holder.in_its_room) + member);
    return std::ranges::any_of(sources, [&](const Source& source) {
      if (is_test(source) || below(source.path, "common/config") || !sees_config.contains(source.path)) return false;
      if (!source.text.contains(name)) return false;
      if (std::regex_search(source.text, use)) return true;
      return !holder.room.empty() && source.path.contains(holder.room) &&
             std::regex_search(source.text, use_in_its_room);
    });
  };
  Complaints out;
  for (const Holder& holder : holders) {
    const std::string open = "struct " + std::string(holder.name) + " {";
    const auto begin = header->text.find(open);
    const auto end = header->text.find("\n};", begin);
    if (begin == std::string::npos || end == std::string::npos) {
      out.push_back("no " + open);
      continue;
    }
    const std::string body = header->text.substr(begin, end - begin);
    for (auto it = std::sregex_iterator(body.begin(), body.end(), field); it != std::sregex_iterator(); ++it)
      if (const std::string name = (*it)[1]; !read(name, holder)) out.push_back(std::string(holder.name) + "::" + name);
  }
  return out;
}

}  // namespace ebb::tree
