#include "tests/unit/tree/tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

namespace ebb::tree {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kCode{"common", "ipc", "supervisor", "worker"};

std::string list(const Complaints& complaints) {
  std::string out;
  for (const std::string& complaint : complaints) out += "\n  " + complaint;
  return out;
}

Sources everything() { return read_sources({"common", "ipc", "supervisor", "worker", "tests"}); }

Source file(std::string path, const std::string& include) {
  return {std::move(path), "#include \"" + include + "\"\n"};
}

// Each rule fails where it should.

TEST(TreeRules, ReadIncludeLines) {
  const auto found =
      includes_of("#include <uv.h>\n  # include \"a/b.h\"  // c\n// #include <x.h>\nint i;\n#include \"c.h\"\n");
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].path, "uv.h");
  EXPECT_TRUE(found[0].system);
  EXPECT_EQ(found[1].path, "a/b.h");
  EXPECT_EQ(found[2].path, "c.h");
  EXPECT_FALSE(found[2].system);
}

TEST(TreeRules, NoticeUpwardIncludes) {
  const auto complains = [](std::string from, std::string to) {
    return !upward_includes({file(from, to), {to, ""}}).empty();
  };
  EXPECT_FALSE(complains("common/routing/a.h", "common/base/b.h"));
  EXPECT_FALSE(complains("common/config/a.h", "common/routing/b.h"));
  EXPECT_FALSE(complains("common/reverse/a.h", "common/protocol/mux/b.h"));
  EXPECT_FALSE(complains("supervisor/main.cc", "worker/edge/b.h"));
  EXPECT_FALSE(complains("tests/unit/a.cc", "worker/edge/b.h"));
  EXPECT_TRUE(complains("common/base/a.h", "common/crypto/b.h"));
  EXPECT_TRUE(complains("common/routing/a.h", "common/config/b.h"));
  EXPECT_TRUE(complains("common/protocol/a.h", "common/net/b.h"));
  EXPECT_TRUE(complains("common/net/a.h", "common/config/b.h"));
  EXPECT_TRUE(complains("common/reverse/a.h", "common/routing/b.h"));
  EXPECT_TRUE(complains("ipc/a.h", "worker/edge/b.h"));
  EXPECT_TRUE(complains("worker/edge/a.h", "supervisor/slots/b.h"));
  EXPECT_TRUE(complains("supervisor/slots/a.h", "worker/edge/b.h"));
  EXPECT_TRUE(complains("worker/a.h", "tests/b.h"));
  EXPECT_TRUE(complains("elsewhere/a.h", "common/base/b.h"));
  EXPECT_FALSE(upward_includes({file("ipc/a.h", "message.h")}).empty());  // not a path from the root
}

TEST(TreeRules, NoticeCycles) {
  EXPECT_TRUE(folder_cycles({file("worker/a/a.h", "worker/b/b.h"), file("worker/b/b.h", "worker/c/c.h")}).empty());
  const auto cycle = folder_cycles({file("worker/a/a.h", "worker/b/b.h"), file("worker/b/c.h", "worker/c/c.h"),
                                    file("worker/c/d.h", "worker/a/e.h")});
  ASSERT_EQ(cycle.size(), 1u);
  EXPECT_TRUE(cycle[0].contains("worker/c -> worker/a (worker/c/d.h)")) << cycle[0];
}

TEST(TreeRules, NoticeIo) {
  EXPECT_FALSE(io_in_pure_code({{"common/reverse/a.h", "#include <uv.h>\n"}}).empty());
  EXPECT_FALSE(io_in_pure_code({{"common/config/a.cc", "#include <sys/socket.h>\n"}}).empty());
  EXPECT_FALSE(io_in_pure_code({{"common/protocol/x/a.cc", "int f() { return ::connect(1, a, b); }"}}).empty());
  EXPECT_TRUE(io_in_pure_code({{"common/protocol/x/a.cc", "Plan::connect(a); session.send(b);"}}).empty());
  EXPECT_TRUE(io_in_pure_code({{"common/net/a.h", "#include <uv.h>\n"}}).empty());
}

TEST(TreeRules, NoticeHeavyHeaders) {
  EXPECT_TRUE(heavy_headers({{"a/a.cc", "#include <re2/re2.h>\n"}, {"a/b.cc", "#include <CLI/CLI.hpp>\n"}}).empty());
  EXPECT_FALSE(heavy_headers({{"a/a.cc", "#include <re2/re2.h>\n"}, {"a/b.cc", "#include <re2/set.h>\n"}}).empty());
  EXPECT_FALSE(heavy_headers({{"a/a.h", "#include <CLI/CLI.hpp>\n"}}).empty());
}

TEST(TreeRules, NoticeSettingsWithoutAReader) {
  const Source header{"common/config/config.h", R"(
struct Limits {
  std::uint64_t memory = 0;  // of all
};
struct Timers {
  std::optional<Millis> handshake;
  Millis udp_idle{120'000};
};
struct Settings {
  Limits limits;
  Timers timers;
  std::string user;
};
struct Portal {
  std::uint32_t tunnels = 0;
};
struct Bridge {
  std::uint32_t min_tunnels = 1;
};
)"};
  const Source parser{"common/config/parser.cc", "settings.user = limits.memory;"};
  const Source test{"tests/unit/a.cc", "settings.user = timers.udp_idle;"};
  const std::string sees = "#include \"common/config/config.h\"\n";
  const Source between{"worker/between.h", sees};
  const Source reader{"worker/a.cc",
                      "#include \"worker/between.h\"\n"
                      "f(settings.limits.memory, who.user, settings().timers, timers.handshake);"};
  const Complaints tunnels{"Portal::tunnels", "Bridge::min_tunnels"};
  const auto with_tunnels = [&](Complaints some) {
    some.insert(some.end(), tunnels.begin(), tunnels.end());
    return some;
  };
  EXPECT_EQ(unread_settings({header, parser, test, between, reader}),
            with_tunnels({"Timers::udp_idle", "Settings::user"}));
  EXPECT_EQ(
      unread_settings({header, {"worker/a.cc", sees + "x->udp_idle, settings_.user"}}),
      with_tunnels({"Limits::memory", "Timers::handshake", "Timers::udp_idle", "Settings::limits", "Settings::timers"}))
      << "a long word may be a member of something else, too";
  const Source all{"worker/all.cc", sees +
                                        "settings.limits.memory + settings_.timers.udp_idle + timers.handshake + "
                                        "settings.user"};
  EXPECT_EQ(
      unread_settings({header, all, {"worker/b.cc", sees + "room.tunnels + settings.tunnels + plan.min_tunnels"}}),
      tunnels);
  EXPECT_EQ(unread_settings({header, all, {"worker/portal.cc", "settings_.tunnels"}}), tunnels)
      << "whoever does not know the configuration means something else";
  EXPECT_TRUE(
      unread_settings({header, all, {"worker/portal.cc", sees + "settings_.tunnels + bridge.min_tunnels"}}).empty());
}

TEST(TreeRules, NoticeProtocolsNamedElsewhere) {
  EXPECT_TRUE(
      named_protocols({{"common/protocol/vmess/a.h", "VMess"}, {"worker/protocols/table.cc", "vmess"}}).empty());
  EXPECT_TRUE(named_protocols({{"tests/unit/a.cc", "vmess"}, {"worker/edge/a.cc", "v mess"}}).empty());
  EXPECT_EQ(named_protocols({{"worker/edge/a.cc", "int a;\n// like VMess\n"}}),
            Complaints{"worker/edge/a.cc:2 // like VMess"});
}

TEST(TreeRules, NoticeWhatAFolderReaches) {
  const Sources sources{file("a/a.cc", "b/b.h"), file("b/b.h", "c/c.h"), {"c/c.h", ""}};
  EXPECT_EQ(reaches(sources, "a", "c"), Complaints{"a/a.cc -> b/b.h -> c/c.h"});
  EXPECT_TRUE(reaches(sources, "c", "a").empty());
}

// And the tree keeps them.

TEST(Tree, EverySettingHasAReader) {
  // Of these common/config says that they have no effect; Fields.WhatHasNoEffectYetIsSaidOrRefused is the test of that.
  const Complaints reported;
  EXPECT_EQ(unread_settings(read_sources({"common", "ipc", "supervisor", "worker"})), reported);
}

TEST(Tree, DependenciesPointDownwards) {
  const Sources sources = everything();
  ASSERT_GT(sources.size(), 20u);
  const auto complaints = upward_includes(sources);
  EXPECT_TRUE(complaints.empty()) << list(complaints);
}

TEST(Tree, FoldersDoNotIncludeEachOther) {
  const auto complaints = folder_cycles(everything());
  EXPECT_TRUE(complaints.empty()) << list(complaints);
}

TEST(Tree, PureFoldersDoNoIo) {
  const auto complaints = io_in_pure_code(everything());
  EXPECT_TRUE(complaints.empty()) << list(complaints);
}

TEST(Tree, ProtocolsAreNamedInTheirRoomsOnly) {
  const auto complaints = named_protocols(everything());
  EXPECT_TRUE(complaints.empty()) << list(complaints);
}

TEST(Tree, RelaysAndLayersKnowNoProtocol) {
  const Sources sources = everything();
  for (const std::string_view folder : {"worker/relay", "worker/layers", "worker/tunnel"}) {
    const auto complaints = reaches(sources, folder, "common/protocol/vmess");
    EXPECT_TRUE(complaints.empty()) << list(complaints);
  }
}

TEST(Tree, SlowHeadersAreIncludedOnce) {
  const auto complaints = heavy_headers(everything());
  EXPECT_TRUE(complaints.empty()) << list(complaints);
}

TEST(Tree, EveryFolderHasAReadmeOfAScreen) {
  constexpr int kScreen = 60;  // lines
  std::vector<fs::path> folders{".", "tests", "configs"};
  for (const std::string& top : kCode) {
    folders.emplace_back(top);
    for (const auto& entry : fs::recursive_directory_iterator(top))
      if (entry.is_directory()) folders.push_back(entry.path());
  }
  Complaints complaints;
  for (const fs::path& folder : folders) {
    std::ifstream readme(folder / "README.md");
    if (!readme) {
      complaints.push_back(folder.generic_string() + " has no README.md");
      continue;
    }
    const auto lines = std::count(std::istreambuf_iterator<char>(readme), {}, '\n');
    if (lines == 0) complaints.push_back(folder.generic_string() + "/README.md is empty");
    if (lines > kScreen && folder != ".")
      complaints.push_back(folder.generic_string() + "/README.md has " + std::to_string(lines) + " lines");
  }
  EXPECT_TRUE(complaints.empty()) << list(complaints);
}

TEST(Tree, TheTopLevelStaysShort) {
  const std::set<std::string> allowed{"CMakeLists.txt",
                                      "CMakePresets.json",
                                      "README.md",
                                      "common",
                                      "configs",
                                      "dev",
                                      "ipc",
                                      "supervisor",
                                      "tests",
                                      "worker",
                                      "build",
                                      "compile_commands.json"};  // the last two are not tracked
  Complaints complaints;
  for (const auto& entry : fs::directory_iterator(".")) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with('.') && !allowed.contains(name))
      complaints.push_back(name + " does not belong at the top level");
  }
  EXPECT_TRUE(complaints.empty()) << list(complaints);
}

}  // namespace
}  // namespace ebb::tree
