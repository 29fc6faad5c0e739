// The one immutable configuration: what every process works from. Parsed from V2Ray JSON by load.h, written and
// read back as canonical JSON (canonical.h). Facts: spec/config.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/base/address.h"
#include "common/base/strong_id.h"
#include "common/routing/rule.h"

namespace ebb::config {

using Millis = std::chrono::milliseconds;
using routing::PortRange;

enum class LogLevel : std::uint8_t { debug, info, warning, error, none };

struct Log {
  bool access_on = false;  // no `log` section: off; an empty one: on (spec/config.md 6)
  std::string access;      // "" = standard output, else a path
  bool error_on = true;
  std::string error;  // "" = standard output, else a path
  LogLevel level = LogLevel::warning;
  bool json = false;  // ebbgate.log.format
};

enum class VmessSecurity : std::uint8_t { auto_, aes_128_gcm, chacha20_poly1305, none, zero };

struct VmessUser {
  UserId id;
  std::uint16_t alter_id = 0;
  std::uint32_t level = 0;
  std::string email;
  VmessSecurity security = VmessSecurity::auto_;  // outbound only
};

struct DokodemoInbound {
  Host address;
  std::uint16_t port = 0;  // never 0 here: 0 in the file became the listening port
  std::uint32_t level = 0;
  bool tcp = true;  // `network`: at least one of them
  bool udp = false;
  bool carries(Network network) const { return network == Network::tcp ? tcp : udp; }
};

struct VmessInbound {
  std::vector<VmessUser> users;
  bool refuse_insecure = false;  // disableInsecureEncryption
};

struct Inbound {
  std::string tag;
  IpAddress listen;  // 0.0.0.0 by default
  std::vector<PortRange> ports;
  bool accept_proxy_protocol = false;  // a PROXY header comes first, from Settings::trusted_proxies
  std::variant<DokodemoInbound, VmessInbound> protocol;
  /// Which networks its addresses are open for.
  bool listens(Network network) const {
    const auto* door = std::get_if<DokodemoInbound>(&protocol);
    return door != nullptr ? door->carries(network) : network == Network::tcp;
  }
  /// Visitors and peers of this inbound prove who they are (the registration rule of spec/config.md 7).
  bool authenticates() const { return std::holds_alternative<VmessInbound>(protocol); }
};

/// freedom's `redirect`: an absent host or port 0 keeps the target's own.
struct Redirect {
  std::optional<Host> host;
  std::uint16_t port = 0;
};

struct FreedomOutbound {
  std::optional<Redirect> redirect;
  std::uint32_t level = 0;
};

struct VmessServer {
  Host address;
  std::uint16_t port = 0;
  std::vector<VmessUser> users;  // at least one
};

struct VmessOutbound {
  std::vector<VmessServer> servers;  // at least one; used in turn, a user at random
};

struct BlackholeOutbound {
  bool http_response = false;
};

struct Outbound {
  std::string tag;
  std::variant<FreedomOutbound, VmessOutbound, BlackholeOutbound> protocol;
  std::optional<IpAddress> send_through;
};

enum class Dialect : std::uint8_t { auto_, v2ray, v2fly, xray };
enum class PickPolicy : std::uint8_t { least, roundrobin, hash, order };

struct Portal {
  std::string tag;
  std::string domain;  // compared byte for byte
  Dialect dialect = Dialect::auto_;
  std::uint32_t tunnels = 0;  // wanted per bridge; 0 = what the bridge gives
  PickPolicy policy = PickPolicy::least;
  bool allow_unauthenticated = false;
  std::uint8_t proxy_protocol = 0;  // version of the PROXY header towards stock bridges, 0: none
};

struct Bridge {
  std::string tag;
  std::string domain;
  std::uint32_t min_tunnels = 1;
  std::uint32_t max_tunnels = 0;    // 0 = no limit
  std::uint32_t weight = 1;         // its share of the visitors beside other bridges of our portal
  std::uint8_t proxy_protocol = 0;  // version of the PROXY header towards targets, 0: none
};

/// `limits.maxConnections` of a process that may have so many files open: two for each, and some beside.
inline std::size_t most_connections(std::uint32_t configured, std::size_t descriptors) {
  if (configured != 0) return configured;
  return descriptors > 1024 ? (descriptors - 512) / 2 : descriptors / 4 > 8 ? descriptors / 4 : 8;
}

/// `limits.memory` of a process: a quarter of the machine's, unless somebody chose.
std::size_t most_memory(std::uint64_t configured);

/// `policy.levels`, the real defaults (spec/config.md 13).
struct PolicyLevel {
  Millis handshake{60'000};
  Millis conn_idle{300'000};
  Millis uplink_only{1'000};
  Millis downlink_only{1'000};
};

/// The `ebbgate` object (spec/config.md 20).
struct Limits {
  std::uint32_t max_connections = 0;  // 0 = from the open-file limit: most_connections()
  std::uint32_t max_streams_per_tunnel = 0;
  std::uint32_t max_handshakes = 4096;
  std::uint64_t stream_buffer = 8u << 20;
  std::uint64_t tunnel_buffer = 32u << 20;
  std::uint64_t memory = 0;             // 0 = a quarter of RAM
  std::uint64_t min_drain = 64u << 10;  // bytes a second that a consumer with a full queue has to take
};

struct Timers {
  std::optional<Millis> handshake;  // else policy level 0; the smaller of both counts
  Millis tunnel_wait{5'000};
  Millis half_close_hold{1'000};
  Millis stall{10'000};
  Millis udp_idle{120'000};
  Millis probation{10'000};
  Millis ready{30'000};
  std::optional<Millis> hard_stop_after;  // else 1 h workers, 24 h brokers
  Millis drain_spread{10'000};
  Millis broker_move{60'000};
  Millis respawn_backoff{1'000};
  Millis stop_grace{5'000};
};

struct Settings {
  std::uint32_t workers = 0;  // 0 = auto: CPUs we may run on
  std::uint32_t broker_loops = 0;
  Limits limits;
  Timers timers;
  std::uint32_t max_generations = 4;
  std::vector<std::string> trusted_proxies{"127.0.0.0/8", "::1"};  // addresses and CIDRs
  std::string runtime_dir;                                         // "" = spec/processes.md 11.1
  std::optional<std::string> admin_socket;                         // "" = off; nullopt = in the runtime directory
};

struct Config {
  Log log;
  std::vector<Inbound> inbounds;
  std::vector<Outbound> outbounds;  // the first is the default; none: the first portal
  std::vector<Portal> portals;
  std::vector<Bridge> bridges;
  std::vector<routing::Rule> rules;  // routing.rules, then routing.settings.rules
  std::map<std::uint32_t, PolicyLevel> policy;
  Settings settings;

  const PolicyLevel& level(std::uint32_t number) const;
};

}  // namespace ebb::config
