// What a routing rule and a connection are, as plain data. spec/routing.md 1-3.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/address.h"
#include "common/base/strong_id.h"

namespace ebb::routing {

struct PortRange {
  std::uint16_t from = 0;
  std::uint16_t to = 0;  // inclusive; from > to is legal and never matches (spec/config.md 4.5)
  friend bool operator==(const PortRange&, const PortRange&) = default;
};

/// One `routing.rules[]` element. nullopt = no such condition; a present empty list is a condition that never matches.
struct Rule {
  std::optional<std::vector<std::string>> domains;  // as written: "full:x.test", "domain:…", "regexp:…", …
  std::optional<std::vector<std::string>> ips;      // "10.0.0.0/8", "!1.1.1.1", …
  std::optional<std::vector<PortRange>> ports;
  std::optional<std::vector<PortRange>> source_ports;
  std::optional<std::vector<Network>> networks;
  std::optional<std::vector<std::string>> sources;  // IP patterns over the peer's address
  std::optional<std::vector<std::string>> users;
  std::optional<std::vector<std::string>> inbound_tags;
  std::string outbound_tag;
  std::string rule_tag;  // Xray's name for the log line
  friend bool operator==(const Rule&, const Rule&) = default;
};

/// What a rule can look at. Views: the connection outlives the decision.
struct Subject {
  std::string_view inbound_tag;
  const Target* target = nullptr;
  const Endpoint* source = nullptr;  // null: none (traffic out of a bridge)
  std::string_view user;             // empty: anonymous
};

}  // namespace ebb::routing
