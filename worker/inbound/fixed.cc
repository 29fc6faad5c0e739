#include "worker/inbound/fixed.h"

namespace ebb::inbound {

Result<Entrance> enter_fixed(const config::Inbound& settings, const DoorKit&) {
  const auto& door = std::get<config::DokodemoInbound>(settings.protocol);
  return Entrance{Target{Network::tcp, door.address, door.port}, nullptr};
}

}  // namespace ebb::inbound
