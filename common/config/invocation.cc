#include "common/config/invocation.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "common/base/fd.h"
#include "common/config/prescan.h"
#include "common/config/text.h"

namespace ebb::config {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t kMostFiles = 1000;

/// Everything up to the end, at most one byte more than the loader takes.
Result<std::string> read_all(int fd) {
  std::string out;
  char chunk[65536];
  while (out.size() <= kMaxTextBytes) {
    const ssize_t got = ::read(fd, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::unexpected{Error{Errc::os, std::strerror(errno), {}}};
    if (got == 0) break;
    out.append(chunk, static_cast<std::size_t>(got));
  }
  return out;
}

Result<std::string> read_file(const fs::path& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status{};
  if (fd.get() < 0 || ::fstat(fd.get(), &status) != 0) {
    return std::unexpected{Error{Errc::os, std::strerror(errno), {}}};
  }
  if (S_ISDIR(status.st_mode)) return std::unexpected{Error{Errc::config, "it is a directory; use -confdir", {}}};
  // Waiting is right for a pipe (`-config <(…)`); O_NONBLOCK was only there so that open() returns.
  ::fcntl(fd.get(), F_SETFL, 0);
  return read_all(fd.get());
}

class Gathering {
 public:
  Gathering(const Invocation& invocation, const Machine& machine) : invocation_(invocation), machine_(machine) {}

  Gathered run() {
    for (const auto& name : invocation_.configs) add_named(name);
    if (const auto directory = named_directory()) {
      add_directory(*directory);
    } else if (invocation_.configs.empty()) {
      add_default();
    }
    if (out_.files.size() > kMostFiles) fail("FILE", "-confdir", "more than 1000 configuration files");
    if (out_.chosen.empty()) {
      for (const auto& file : out_.files) out_.chosen += (out_.chosen.empty() ? "" : ", ") + file.name;
    }
    return std::move(out_);
  }

 private:
  void fail(std::string code, const std::string& file, std::string message, std::string suggestion = {}) {
    out_.diagnostics.push_back(
        {Severity::error, true, std::move(code), file, "$", 1, 1, std::move(message), std::move(suggestion)});
  }

  fs::path in_working_directory(const std::string& name) const { return fs::path(machine_.working_directory) / name; }

  /// As written (with dots), then upper-cased; V2Ray's name, then Xray's. An empty value counts as unset.
  std::optional<std::string> location(std::string_view what) const {
    const auto& environment = machine_.surroundings.environment;
    if (!environment) return std::nullopt;
    const std::string tail(what);
    std::string upper = tail;
    std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return std::toupper(c); });
    for (const auto& name :
         {"v2ray.location." + tail, "V2RAY_LOCATION_" + upper, "xray.location." + tail, "XRAY_LOCATION_" + upper}) {
      if (auto value = environment(name); value && !value->empty()) return value;
    }
    return std::nullopt;
  }

  std::optional<std::string> named_directory() const {
    return invocation_.confdir ? invocation_.confdir : location("confdir");
  }

  void add_file(const std::string& name, const fs::path& path) {
    if (auto text = read_file(path)) {
      out_.files.push_back({name, std::move(*text)});
    } else {
      fail("FILE", name, "cannot read " + name + ": " + text.error().what,
           fs::path(name).is_absolute() ? "" : "relative names are taken from the working directory");
    }
  }

  void add_standard_input() {
    auto text = machine_.standard_input ? machine_.standard_input()
                                        : Result<std::string>(std::unexpected{Error{Errc::os, "it is closed", {}}});
    if (text) {
      out_.files.push_back({"stdin:", std::move(*text)});
    } else {
      fail("FILE", "stdin:", "cannot read standard input: " + text.error().what);
    }
  }

  void add_named(const std::string& name) {
    if (name == "stdin:") return add_standard_input();
    if (name.starts_with("http://") || name.starts_with("https://")) {
      // The URL may carry a token: say where, not what.
      return fail("UNSUPPORTED", "-config", "configurations are not loaded from URLs", "download it and name the file");
    }
    add_file(name, in_working_directory(name));
  }

  template <class Iterator>
  std::vector<fs::path> json_files(const fs::path& directory, std::error_code& error) const {
    std::vector<fs::path> out;
    for (Iterator it(directory, error), end; !error && it != end; it.increment(error)) {
      std::error_code ignored;
      if (it->path().native().ends_with(".json") && it->is_regular_file(ignored)) out.push_back(it->path());
      if (out.size() > kMostFiles) break;
    }
    std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.native() < b.native(); });
    return out;
  }

  void add_directory(const std::string& name) {
    const fs::path directory = in_working_directory(name);
    std::error_code error;
    const auto files = invocation_.recurse ? json_files<fs::recursive_directory_iterator>(directory, error)
                                           : json_files<fs::directory_iterator>(directory, error);
    if (error) return fail("FILE", name, "cannot read the directory " + name + ": " + error.message());
    if (files.size() > kMostFiles) return fail("FILE", name, "more than 1000 configuration files");
    if (files.empty() && invocation_.configs.empty()) {
      return fail("FILE", name, "the directory " + name + " holds no .json file");
    }
    for (const auto& file : files) add_file((fs::path(name) / file.lexically_relative(directory)).string(), file);
    out_.chosen = std::to_string(files.size()) + " files in " + name;
    for (const auto& config : invocation_.configs) out_.chosen = config + ", " + out_.chosen;
  }

  void add_default() {
    std::error_code error;
    if (fs::exists(in_working_directory("config.json"), error)) {
      return add_file("config.json", in_working_directory("config.json"));
    }
    const auto variable = location("config");
    const fs::path beside = fs::path(variable ? *variable : machine_.executable_directory) / "config.json";
    if ((variable || !machine_.executable_directory.empty()) && fs::exists(in_working_directory(beside), error)) {
      return add_file(beside.string(), in_working_directory(beside));
    }
    add_standard_input();
  }

  const Invocation& invocation_;
  const Machine& machine_;
  Gathered out_;
};

}  // namespace

Machine this_machine() {
  std::error_code error;
  const auto executable = fs::read_symlink("/proc/self/exe", error);
  return {process_surroundings(), {}, executable.parent_path().string(), [] { return read_all(STDIN_FILENO); }};
}

Gathered gather(const Invocation& invocation, const Machine& machine) { return Gathering(invocation, machine).run(); }

}  // namespace ebb::config
