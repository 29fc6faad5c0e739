// The protocol number of ebbgate_other_protocol: far from any that a release will have.
#include "ipc/message.h"

namespace ebb::ipc {

const std::uint8_t kProtocol = 200;

}  // namespace ebb::ipc
