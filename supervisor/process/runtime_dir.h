// The runtime directory of an instance and its lock: two instances of one configuration never run.
// spec/processes.md 11.1.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"

namespace ebb::supervisor {

/// 12 hex digits of SHA-256: over the absolute paths of the configuration files (each followed by a newline), or, when
/// it comes from standard input, over its bytes.
std::string instance_id(std::span<const std::string> absolute_paths);
std::string instance_id_of_input(std::string_view bytes);

/// Where a runtime directory may be; tests pass their own.
struct RuntimePlaces {
  std::function<std::optional<std::string>(const char* name)> environment;
  unsigned uid = 0;
  std::string run = "/run";
  std::string temporary = "/tmp";
};
RuntimePlaces process_runtime_places();

/// The directory of instance `id`: `configured` (ebbgate.runtimeDir), else $RUNTIME_DIRECTORY, else /run/ebbgate/ID as
/// root, else $XDG_RUNTIME_DIR/ebbgate/ID, else ebbgate-UID/ID in the temporary directory.
std::string runtime_path(const std::string& configured, const std::string& id, const RuntimePlaces& places);

/// Without "." and "..", repeated slashes and one at the end.
std::string plain_path(const std::string& path);

/// A directory that is ours: the lock is held as long as this lives.
struct RuntimeDir {
  std::string path;
  std::string instance;  // 32 hex digits, the same for every run in this directory
  Fd lock;

  std::string file(std::string_view name) const { return path + "/" + std::string(name); }
  /// The pid in the lock; nullopt: none can be read.
  std::optional<int> signer() const;
  /// Writes our pid into the lock: from now on we are who holds it for the others. Errors: os.
  Result<> sign() const;
};

/// Makes the directory (0700; one that exists has to be ours and closed to others' writing), takes `lock`, writes our
/// pid into it and makes `instance`. Errors: refused, when another process holds the lock, naming its pid and the file;
/// os.
Result<RuntimeDir> claim_runtime_dir(const std::string& path);

/// The same directory as the new supervisor of an upgrade: `lock` is the old one's, which stays locked as long as one
/// of the two has it open. The pid in it is the old one's until sign(). Errors: os.
Result<RuntimeDir> inherit_runtime_dir(const std::string& path, Fd lock);

/// The pid in a lock file that some process holds; nullopt when nobody does.
std::optional<int> lock_holder(const std::string& path_of_lock);

/// Directories of this user's running instances, for `ctl` without -c.
std::vector<std::string> running_instances(const RuntimePlaces& places);

}  // namespace ebb::supervisor
