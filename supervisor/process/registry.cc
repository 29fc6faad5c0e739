#include "supervisor/process/registry.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/base/fd.h"

namespace ebb::supervisor {
namespace {

constexpr std::string_view kTitle = "ebbgate-registry 1";
constexpr std::size_t kMaxEntries = 16384;  // more processes than there can be
constexpr std::string_view kRetired = "retired-";
constexpr std::string_view kDraft = ".new";
constexpr std::size_t kMaxRetired = 256;

struct Owner {
  pid_t pid = 0;
  std::uint64_t started = 0;
};

/// retired-PID-STARTED
std::optional<Owner> owner_of(std::string_view name) {
  if (!name.starts_with(kRetired)) return std::nullopt;
  const char* const end = name.data() + name.size();
  Owner owner;
  const auto pid = std::from_chars(name.data() + kRetired.size(), end, owner.pid);
  if (pid.ec != std::errc() || pid.ptr == end || *pid.ptr != '-') return std::nullopt;
  const auto started = std::from_chars(pid.ptr + 1, end, owner.started);
  if (started.ec != std::errc() || started.ptr != end) return std::nullopt;
  return owner;
}

}  // namespace

std::string retired_registry(const std::string& directory, pid_t pid, std::uint64_t started) {
  return directory + "/" + std::string(kRetired) + std::to_string(pid) + "-" + std::to_string(started);
}

std::vector<RetiredRegistry> retired_registries(const std::string& directory) {
  std::vector<RetiredRegistry> all;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const auto owner = owner_of(entry.path().filename().native());
    if (!owner || all.size() >= kMaxRetired) continue;
    auto registry = read_registry(entry.path());
    if (!registry) continue;
    all.push_back({entry.path(), process_start(owner->pid) == owner->started, std::move(*registry)});
  }
  return all;
}

void sweep_retired_drafts(const std::string& directory) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    std::string name = entry.path().filename().string();
    if (!name.ends_with(kDraft)) continue;
    name.resize(name.size() - kDraft.size());
    const auto owner = owner_of(name);
    if (owner && process_start(owner->pid) != owner->started) ::unlink(entry.path().c_str());
  }
}

Result<> write_registry(const std::string& path, const Registry& registry) {
  std::ostringstream text;
  text << kTitle << "\nnumbers " << registry.key << ' ' << registry.gen << ' ' << registry.broker << ' '
       << registry.current << '\n';
  for (const auto& one : registry.entries) {
    text << "child " << one.key << ' ' << one.role << ' ' << one.gen << ' ' << one.index << ' ' << one.pid << ' '
         << one.started << ' ' << one.socket << ' ' << one.link_id << '\n';
  }
  const std::string bytes = text.str();
  const std::string draft = path + std::string(kDraft);
  const Fd fd(::open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd || ::write(fd.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()) ||
      ::rename(draft.c_str(), path.c_str()) != 0) {
    return std::unexpected(Error{Errc::os, path + ": " + std::strerror(errno), {}});
  }
  return {};
}

std::optional<Registry> read_registry(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::string word;
  if (!std::getline(in, line) || line != kTitle) return std::nullopt;
  Registry registry;
  if (!std::getline(in, line)) return std::nullopt;
  std::istringstream numbers(line);
  if (!(numbers >> word >> registry.key >> registry.gen >> registry.broker >> registry.current)) return std::nullopt;
  while (std::getline(in, line) && registry.entries.size() < kMaxEntries) {
    std::istringstream fields(line);
    Registry::Entry one;
    if (fields >> word >> one.key >> one.role >> one.gen >> one.index >> one.pid >> one.started >> one.socket &&
        one.socket.find('/') == std::string::npos) {
      if (!(fields >> one.link_id)) one.link_id = one.key & 0xFFFF;
      registry.entries.push_back(std::move(one));
    }
  }
  return registry;
}

std::optional<std::uint64_t> process_start(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(in, line)) return std::nullopt;
  const auto name_end = line.rfind(')');  // the name may hold anything
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int number = 3; number <= 22 && fields >> field; ++number) {  // starttime is the 22nd
    if (number == 3 && (field == "Z" || field == "X")) return std::nullopt;
    if (number == 22) return std::strtoull(field.c_str(), nullptr, 10);
  }
  return std::nullopt;
}

}  // namespace ebb::supervisor
