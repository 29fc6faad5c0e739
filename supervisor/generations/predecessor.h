// The new supervisor of an upgrade meets the old one, before anything else begins. spec/processes.md 9.2.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "ipc/channel.h"
#include "supervisor/generations/machine.h"
#include "supervisor/process/spawn.h"
#include "supervisor/slots/slots.h"

namespace ebb::supervisor {

// The link and the lock are inherited as fd 3 and 4. The slots come as SLOT_GRANTs: as an environment variable they
// would be limited to 128 KiB, and a message names a descriptor by its place.
inline constexpr const char* kUpgradeFd = "EBB_UPGRADE_FD";
inline constexpr const char* kUpgradeLock = "EBB_UPGRADE_LOCK";
inline constexpr const char* kUpgradeDirectory = "EBB_UPGRADE_DIRECTORY";

struct UpgradeCall {
  Fd link;
  Fd lock;
  std::string directory;
};
/// Takes it out of the environment: children shall not see it. nullopt: this is an ordinary start.
std::optional<UpgradeCall> upgrade_call();

struct MetPredecessor {
  ipc::Channel channel;
  Process process;  // not our child: the pidfd tells when it ends
  Predecessor who;
  std::vector<Slot> slots;
  Fd replay;
};
inline constexpr std::chrono::seconds kMeetLimit{10};
/// Exchanges HELLO and takes everything up to the shared memory, the last of what comes. Errors: timeout, closed,
/// protocol, os.
Result<MetPredecessor> meet_predecessor(Fd link, std::chrono::milliseconds limit = kMeetLimit);

}  // namespace ebb::supervisor
