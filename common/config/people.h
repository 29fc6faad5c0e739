// The users of an inbound, whatever it speaks.
#pragma once

#include <span>
#include <variant>

#include "common/config/config.h"

namespace ebb::config {

/// Has an id, an e-mail, a level; what a protocol wants to know besides is its own business.
using User = VmessUser;

/// In the order that numbers them; none where nobody has to say who he is.
inline std::span<const User> users_of(const Inbound& inbound) {
  const auto* listed = std::get_if<VmessInbound>(&inbound.protocol);
  return listed != nullptr ? std::span<const User>(listed->users) : std::span<const User>();
}

}  // namespace ebb::config
