// Taking over processes that lost their supervisor: who they are (the registry), what they hold (ADOPT).
// spec/processes.md 9.4. Blocking, with a deadline: nothing else has begun yet.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "ipc/channel.h"
#include "supervisor/generations/configuration.h"
#include "supervisor/generations/machine.h"
#include "supervisor/process/registry.h"
#include "supervisor/process/spawn.h"
#include "supervisor/slots/slots.h"

namespace ebb::supervisor {

/// A process that answered, its link, and its socket in the runtime directory. A retired supervisor has neither.
struct Adopted {
  Orphan orphan;
  Process process;  // not our child: the pidfd tells when it ends, nobody how
  std::optional<ipc::Channel> channel;
  std::string socket;
};

struct Adoption {
  std::vector<Adopted> processes;
  Numbers used;
  std::uint64_t current = 0;                                           // the generation that serves
  std::vector<Slot> slots;                                             // each once
  Fd replay;                                                           // the replay table; empty: nobody had it
  std::map<std::uint64_t, std::shared_ptr<const Snapshot>> snapshots;  // by worker generation
  std::vector<std::string> left;  // registries of retired supervisors that are dead: to be removed once ours is written
  bool more = false;              // somebody has not answered yet: to be asked again
};

inline constexpr std::chrono::milliseconds kAdoptionLimit{5000};  // as the watchdog: who does not answer by then hangs

struct AdoptOptions {
  std::chrono::milliseconds limit = kAdoptionLimit;
  bool in_charge = true;                     // also those of `registry`: nobody else is alive who wrote it
  bool patient = false;                      // who does not answer in time is left for another try
  std::function<bool(pid_t)> leave_alone{};  // who has a supervisor
};
/// Adopts every process that still lives of those which dead supervisors have written down in `directory`. One that
/// does not answer in time is killed, one of another protocol is told to leave (QUIT). nullopt: there is nobody.
std::optional<Adoption> adopt_orphans(const std::string& directory, const std::string& instance,
                                      const AdoptOptions& options = {});

/// The supervisors named by a registry that still live and are not `leave_alone`d.
std::vector<Adopted> living_supervisors(const std::string& registry, const std::function<bool(pid_t)>& leave_alone);

/// Names of adoption sockets begin with it.
inline constexpr const char* kSocketPrefix = "child-";
/// Removes what processes that were killed have left in the directory, but not what `adoption` has or a retired
/// supervisor may still need. Only while nobody else uses it: the lock is held and no child has been started.
void sweep_adoption_sockets(const std::string& directory, const std::optional<Adoption>& adoption);

/// A listening socket at which one child can be adopted, made before it is spawned. Errors: os, with the path.
Result<Fd> make_adoption_socket(const std::string& path);

}  // namespace ebb::supervisor
