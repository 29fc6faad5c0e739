#include "supervisor/slots/listeners.h"

#include <dirent.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string_view>

namespace ebb::supervisor {
namespace {

struct CloseDir {
  void operator()(DIR* dir) const { ::closedir(dir); }
};
using Dir = std::unique_ptr<DIR, CloseDir>;

constexpr unsigned kListening = 0x0A;  // states as /proc/net has them
constexpr unsigned kUnconnected = 0x07;

/// The inode of a socket in that state on `address` or on a wildcard that covers it; 0 if there is none.
unsigned long inode_at(const char* table, unsigned wanted_state, const Endpoint& address) {
  std::ifstream in(table);
  std::string line;
  std::getline(in, line);  // column names
  while (std::getline(in, line)) {
    char local[40] = {};
    unsigned port = 0;
    unsigned state = 0;
    unsigned long inode = 0;
    // sl local_address:port rem_address:port st tx:rx tr:when retrnsmt uid timeout inode
    if (std::sscanf(line.c_str(), " %*d: %32[0-9A-F]:%x %*s %x %*s %*s %*s %*s %*s %lu", local, &port, &state,
                    &inode) != 4) {
      continue;
    }
    if (state != wanted_state || port != address.port || inode == 0) continue;
    const std::string_view text(local);
    const bool wildcard = text.find_first_not_of('0') == std::string_view::npos;
    if (wildcard || address.ip == IpAddress{address.ip.v6, {}}) return inode;
    // The kernel prints 32-bit words in host order.
    std::string wanted;
    for (std::size_t word = 0; word < (address.ip.v6 ? 16u : 4u); word += 4) {
      std::uint32_t value = 0;
      std::memcpy(&value, address.ip.bytes.data() + word, 4);
      char hex[9];
      std::snprintf(hex, sizeof hex, "%08X", value);
      wanted += hex;
    }
    if (text == wanted) return inode;
  }
  return 0;
}

std::optional<PortOwner> holder_of(unsigned long inode) {
  const std::string wanted = "socket:[" + std::to_string(inode) + "]";
  const Dir proc(::opendir("/proc"));
  if (!proc) return std::nullopt;
  while (const dirent* entry = ::readdir(proc.get())) {
    const std::string_view name(entry->d_name);
    int pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ptr != name.data() + name.size()) continue;
    const std::string folder = "/proc/" + std::string(name);
    const Dir fds(::opendir((folder + "/fd").c_str()));
    if (!fds) continue;
    while (const dirent* fd = ::readdir(fds.get())) {
      char target[64];
      const auto n = ::readlinkat(::dirfd(fds.get()), fd->d_name, target, sizeof target);
      if (n <= 0 || std::string_view(target, static_cast<std::size_t>(n)) != wanted) continue;
      PortOwner owner{pid, "?"};
      std::ifstream(folder + "/comm") >> owner.command;
      return owner;
    }
  }
  return std::nullopt;
}

}  // namespace

std::string Listener::name() const {
  return "$.inbounds[" + std::to_string(inbound) + "]" + (tag.empty() ? "" : " \"" + tag + "\"") + ", " +
         (network == Network::udp ? "udp " : "") + address.text();
}

std::vector<Listener> listeners_of(const config::Config& config) {
  std::vector<Listener> all;
  for (std::size_t i = 0; i < config.inbounds.size(); ++i) {
    const auto& inbound = config.inbounds[i];
    for (const auto& range : inbound.ports) {
      for (std::uint32_t port = range.from; port <= range.to; ++port) {
        for (const Network network : {Network::tcp, Network::udp}) {
          if (!inbound.listens(network)) continue;
          const auto add = [&](const IpAddress& ip) {
            all.push_back(
                {{ip, static_cast<std::uint16_t>(port)}, static_cast<std::uint16_t>(i), inbound.tag, network});
          };
          add(inbound.listen);
          if (inbound.listen == IpAddress{true, {}}) add(IpAddress{});
        }
      }
    }
  }
  return all;
}

std::optional<PortOwner> find_port_owner(const Endpoint& address, Network network) {
  const bool udp = network == Network::udp;
  for (const char* table : {udp ? "/proc/net/udp" : "/proc/net/tcp", udp ? "/proc/net/udp6" : "/proc/net/tcp6"}) {
    if (const auto inode = inode_at(table, udp ? kUnconnected : kListening, address)) {
      if (auto owner = holder_of(inode)) return owner;
    }
  }
  return std::nullopt;
}

}  // namespace ebb::supervisor
