// Which addresses a configuration listens on, and who holds a port that is taken. spec/processes.md 3.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/address.h"
#include "common/config/config.h"

namespace ebb::supervisor {

/// One address and port of one inbound.
struct Listener {
  Endpoint address;
  std::uint16_t inbound = 0;  // index in Config::inbounds
  std::string tag;            // of the inbound, may be empty
  Network network = Network::tcp;

  /// `$.inbounds[2] "external", 0.0.0.0:443` (`udp 0.0.0.0:443`): how messages name it.
  std::string name() const;
};

/// Every address and port the inbounds ask for, in their order, for TCP before UDP; a `::` inbound listens on 0.0.0.0
/// too (IPV6_V6ONLY is always on: the two are separate groups to the kernel).
std::vector<Listener> listeners_of(const config::Config& config);

/// The process that has an address that we cannot have.
struct PortOwner {
  int pid = 0;
  std::string command;  // as in /proc/PID/comm
};
/// Looks through /proc; nullopt when nobody is found or /proc does not let us look.
std::optional<PortOwner> find_port_owner(const Endpoint& address, Network network = Network::tcp);

}  // namespace ebb::supervisor
