#include "supervisor/process/runtime_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "common/base/bytes.h"
#include "common/crypto/hash.h"
#include "common/crypto/random.h"

namespace ebb::supervisor {
namespace {

Error os_error(const std::string& what, int code) { return Error{Errc::os, what + ": " + std::strerror(code), {}}; }

std::string short_hex(const crypto::Digest32& digest) { return to_hex(ConstSpan(digest).first(6)); }

/// One directory of the path: made with 0700, or there already and safe to use.
Result<> private_dir(const std::string& path, bool own) {
  if (::mkdir(path.c_str(), 0700) == 0) return {};
  if (errno != EEXIST) return std::unexpected(os_error("cannot make the runtime directory " + path, errno));
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) return std::unexpected(os_error(path, errno));
  const bool ours = info.st_uid == ::geteuid();
  if (S_ISDIR(info.st_mode) && (!own || (ours && (info.st_mode & 022) == 0))) return {};
  return std::unexpected(Error{Errc::refused,
                               path + " must be a directory that belongs to uid " + std::to_string(::geteuid()) +
                                   " and that nobody else can write to; remove it or set ebbgate.runtimeDir",
                               {}});
}

std::string read_small(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  std::array<char, 128> text{};
  const auto n = fd ? ::read(fd.get(), text.data(), text.size()) : -1;
  return n > 0 ? std::string(text.data(), static_cast<std::size_t>(n)) : std::string();
}

Result<std::string> instance_of(const std::string& path) {
  std::string known = read_small(path);
  while (!known.empty() && known.back() == '\n') known.pop_back();
  if (known.size() == 32 && from_hex(known)) return known;
  std::array<std::uint8_t, 16> bytes{};
  crypto::SystemRandom().fill(bytes);
  std::string fresh = to_hex(bytes);
  const std::string draft = path + ".new";
  const Fd fd(::open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  const std::string line = fresh + "\n";
  if (!fd || ::write(fd.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size()) ||
      ::rename(draft.c_str(), path.c_str()) != 0) {
    return std::unexpected(os_error("cannot write " + path, errno));
  }
  return fresh;
}

}  // namespace

std::string instance_id(std::span<const std::string> absolute_paths) {
  std::string joined;
  for (const auto& path : absolute_paths) joined += path + "\n";
  return short_hex(crypto::sha256({as_bytes(joined)}));
}

std::string instance_id_of_input(std::string_view bytes) { return short_hex(crypto::sha256({as_bytes(bytes)})); }

RuntimePlaces process_runtime_places() {
  RuntimePlaces places;
  places.environment = [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return value;
  };
  places.uid = ::geteuid();
  if (const auto temporary = places.environment("TMPDIR")) places.temporary = *temporary;
  return places;
}

namespace {
/// The folder that holds the instances' directories; not for the two cases that name a directory outright.
std::string base_of(const RuntimePlaces& places) {
  if (places.uid == 0) return places.run + "/ebbgate";
  if (const auto xdg = places.environment("XDG_RUNTIME_DIR")) return *xdg + "/ebbgate";
  return places.temporary + "/ebbgate-" + std::to_string(places.uid);
}
std::optional<std::string> from_service_manager(const RuntimePlaces& places) {
  auto given = places.environment("RUNTIME_DIRECTORY");
  if (given) given->resize(std::min(given->find(':'), given->size()));  // several: the first
  return given;
}
}  // namespace

std::string runtime_path(const std::string& configured, const std::string& id, const RuntimePlaces& places) {
  if (!configured.empty()) return configured;
  if (const auto given = from_service_manager(places)) return *given;
  return base_of(places) + "/" + id;
}

std::string plain_path(const std::string& path) {
  std::string plain = std::filesystem::path(path).lexically_normal().string();
  while (plain.size() > 1 && plain.back() == '/') plain.pop_back();
  return plain;
}

Result<RuntimeDir> claim_runtime_dir(const std::string& path) {
  RuntimeDir dir;
  dir.path = plain_path(path);
  // Missing parents are made too. One of our own (ebbgate/, ebbgate-UID/) may lie in a folder where everybody can
  // write: there it has to be ours as well.
  for (std::size_t slash = dir.path.find('/', 1); slash != std::string::npos; slash = dir.path.find('/', slash + 1)) {
    const std::string parent = dir.path.substr(0, slash);
    auto made = private_dir(parent, std::filesystem::path(parent).filename().string().starts_with("ebbgate"));
    if (!made) return std::unexpected(std::move(made.error()));
  }
  auto made = private_dir(dir.path, true);
  if (!made) return std::unexpected(std::move(made.error()));

  const std::string lock = dir.file("lock");
  dir.lock = Fd(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!dir.lock) return std::unexpected(os_error("cannot open " + lock, errno));
  int locked = -1;
  for (int tries = 0; tries < 3 && locked != 0; ++tries) {  // lock_holder() of a client may hold it for an instant
    if (tries > 0) ::usleep(20'000);
    locked = ::flock(dir.lock.get(), LOCK_EX | LOCK_NB);
  }
  if (locked != 0) {
    if (errno != EWOULDBLOCK) return std::unexpected(os_error("cannot lock " + lock, errno));
    std::string pid = read_small(lock);
    while (!pid.empty() && pid.back() == '\n') pid.pop_back();
    return std::unexpected(Error{Errc::refused,
                                 "this configuration is already running as process " + (pid.empty() ? "?" : pid) +
                                     ", which holds the lock " + lock,
                                 {}});
  }
  auto signed_now = dir.sign();
  if (!signed_now) return std::unexpected(std::move(signed_now.error()));
  auto instance = instance_of(dir.file("instance"));
  if (!instance) return std::unexpected(std::move(instance.error()));
  dir.instance = std::move(*instance);
  return dir;
}

std::optional<int> RuntimeDir::signer() const {
  std::array<char, 32> text{};
  const auto n = ::pread(lock.get(), text.data(), text.size(), 0);
  int pid = 0;
  if (n <= 0 || std::from_chars(text.data(), text.data() + n, pid).ec != std::errc()) return std::nullopt;
  return pid;
}

Result<> RuntimeDir::sign() const {
  const std::string pid = std::to_string(::getpid()) + "\n";
  // In this order a reader finds the old pid or the new one at any time.
  const auto written = ::pwrite(lock.get(), pid.data(), pid.size(), 0);
  if (written == static_cast<ssize_t>(pid.size()) && ::ftruncate(lock.get(), written) == 0) return {};
  return std::unexpected(os_error("cannot write " + file("lock"), errno));
}

Result<RuntimeDir> inherit_runtime_dir(const std::string& path, Fd lock) {
  RuntimeDir dir;
  dir.path = path;
  dir.lock = std::move(lock);
  auto instance = instance_of(dir.file("instance"));
  if (!instance) return std::unexpected(std::move(instance.error()));
  dir.instance = std::move(*instance);
  return dir;
}

std::optional<int> lock_holder(const std::string& path_of_lock) {
  const Fd fd(::open(path_of_lock.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return std::nullopt;
  if (::flock(fd.get(), LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK) return std::nullopt;
  const std::string text = read_small(path_of_lock);
  int pid = 0;
  std::from_chars(text.data(), text.data() + text.size(), pid);
  return pid;
}

std::vector<std::string> running_instances(const RuntimePlaces& places) {
  std::vector<std::string> candidates;
  if (const auto given = from_service_manager(places)) candidates.push_back(*given);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(base_of(places), error)) {
    candidates.push_back(entry.path().string());
  }
  std::erase_if(candidates, [](const std::string& path) { return !lock_holder(path + "/lock"); });
  return candidates;
}

}  // namespace ebb::supervisor
