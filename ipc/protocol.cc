// The protocol number, and nothing else: see the note in ipc/CMakeLists.txt.
#include "ipc/message.h"

namespace ebb::ipc {

const std::uint8_t kProtocol = 2;

}  // namespace ebb::ipc
