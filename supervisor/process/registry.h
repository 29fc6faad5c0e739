// Who our children are, written down for the supervisor that comes after us (spec/processes.md 9.4). One file in the
// runtime directory, replaced as a whole at every change.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/result.h"

namespace ebb::supervisor {

struct Registry {
  struct Entry {
    std::uint32_t key = 0;
    std::string role;  // "worker", "broker", "supervisor": one that is retired and waits for its last process
    std::uint64_t gen = 0;
    std::uint32_t index = 0;
    pid_t pid = 0;
    std::uint64_t started = 0;  // process_start(): tells a pid that is used again
    std::string socket;         // file name in the runtime directory where it can be adopted; "-": it cannot
    std::uint32_t link_id = 0;  // a worker's number on its links; in a file without: the lower half of `key`
  };
  // The highest numbers used, and the generation that decides.
  std::uint32_t key = 0;
  std::uint64_t gen = 0;
  std::uint64_t broker = 0;
  std::uint64_t current = 0;
  std::vector<Entry> entries;
};

/// Where a supervisor that has handed its service over writes down those it still waits for. The name says whose it is,
/// so that nobody mistakes it for that of a living one.
std::string retired_registry(const std::string& directory, pid_t pid, std::uint64_t started);

/// What such a supervisor has left in the directory.
struct RetiredRegistry {
  std::string path;
  bool alive = false;  // its owner is: these are not orphans
  Registry registry;
};
/// Files that are none of ours are left out, as are more than there can be.
std::vector<RetiredRegistry> retired_registries(const std::string& directory);

/// Removes what a retired supervisor that was killed as it wrote has left.
void sweep_retired_drafts(const std::string& directory);

/// Atomic: a reader finds the old one or the new one. Errors: os.
Result<> write_registry(const std::string& path, const Registry& registry);
/// nullopt: there is none, or it is not one of ours. Entries that do not parse are left out.
std::optional<Registry> read_registry(const std::string& path);

/// When a process started, in clock ticks since boot; nullopt: there is no such process, or it is dead and only its
/// parent has not asked yet.
std::optional<std::uint64_t> process_start(pid_t pid);

}  // namespace ebb::supervisor
