#include "tests/unit/routing/rules_from_json.h"

#include <optional>
#include <sstream>

namespace ebb::routing {
namespace {

using test::Json;
using Strings = std::optional<std::vector<std::string>>;

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> out{""};
  for (const char c : text) {
    if (c == ',')
      out.emplace_back();
    else
      out.back() += c;
  }
  return out;
}

/// spec/config.md 4.1: not trimmed, "" is one empty string; an empty array is no condition.
Strings strings(const Json& rule, std::initializer_list<const char*> keys) {
  Strings out;
  for (const char* key : keys) {
    if (!rule.has(key)) continue;
    std::vector<std::string> items;
    if (rule[key].kind() == Json::Kind::text)
      items = split(rule[key].text());
    else
      for (const Json& item : rule[key]) items.push_back(item.text());
    if (items.empty()) continue;
    if (!out) out.emplace();
    out->insert(out->end(), items.begin(), items.end());
  }
  return out;
}

/// spec/config.md 4.5: the number 0 and "" are lists that match nothing.
std::optional<std::vector<PortRange>> ports(const Json& rule, const char* key) {
  if (!rule.has(key)) return {};
  std::vector<PortRange> out;
  if (rule[key].kind() == Json::Kind::number) {
    const auto port = static_cast<std::uint16_t>(rule[key].number());
    if (port != 0) out.push_back({port, port});
    return out;
  }
  for (const std::string& item : split(rule[key].text())) {
    if (item.empty()) continue;
    const auto dash = item.find('-');
    const auto from = static_cast<std::uint16_t>(std::stoi(item));
    const auto to = dash == item.npos ? from : static_cast<std::uint16_t>(std::stoi(item.substr(dash + 1)));
    out.push_back({from, to});
  }
  return out;
}

std::optional<std::vector<Network>> networks(const Json& rule) {
  const Strings words = strings(rule, {"network"});
  if (!words) return {};
  std::vector<Network> out;
  for (const std::string& word : *words) {
    if (word == "tcp" || word == "TCP") out.push_back(Network::tcp);
    if (word == "udp" || word == "UDP") out.push_back(Network::udp);
  }
  return out;
}

void append(std::vector<Rule>& out, const Json& rules) {
  for (const Json& rule : rules) {
    out.push_back({.domains = strings(rule, {"domain", "domains"}),
                   .ips = strings(rule, {"ip"}),
                   .ports = ports(rule, "port"),
                   .source_ports = ports(rule, "sourcePort"),
                   .networks = networks(rule),
                   .sources = strings(rule, {"source", "sourceIP"}),
                   .users = strings(rule, {"user"}),
                   .inbound_tags = strings(rule, {"inboundTag"}),
                   .outbound_tag = rule.has("outboundTag") ? rule["outboundTag"].text() : "",
                   .rule_tag = ""});
  }
}

}  // namespace

std::vector<Rule> rules_from_json(const Json& routing) {
  std::vector<Rule> out;
  if (routing.has("rules")) append(out, routing["rules"]);
  if (routing.has("settings") && routing["settings"].has("rules")) append(out, routing["settings"]["rules"]);
  return out;
}

}  // namespace ebb::routing
