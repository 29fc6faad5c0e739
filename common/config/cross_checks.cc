// What must hold between elements: tags, ports, and names that refer to something. spec/config.md 18.
#include "common/config/cross_checks.h"

#include <algorithm>

#include "common/config/text.h"

namespace ebb::config {
namespace {

std::string element_name(const Value& value) {
  const std::string path = value.path();
  return path.substr(path.find_first_not_of("$."));
}

/// Tags seen so far in one name space, with the element that has each.
class Tags {
 public:
  /// The element that already has this tag, or null; empty tags never clash.
  const Value* add(const std::string& tag, const Value& element) {
    if (tag.empty()) return nullptr;
    const auto [found, fresh] = seen_.emplace(tag, element);
    return fresh ? nullptr : &found->second;
  }
  const Value* find(const std::string& tag) const {
    const auto found = seen_.find(tag);
    return found == seen_.end() ? nullptr : &found->second;
  }
  std::vector<std::string_view> names() const {
    std::vector<std::string_view> out;
    for (const auto& [tag, value] : seen_) out.push_back(tag);
    return out;
  }

 private:
  std::map<std::string, Value> seen_;
};

void check_dangling(const Draft& draft, const Tags& in_tags, const Tags& out_tags, Report& report) {
  const auto error = [&](const Value& value, std::string message, std::string suggestion) {
    report.note(Severity::error, "DANGLING", value.place(), std::move(message), std::move(suggestion));
  };
  std::string fallback = "no outbound takes it";
  if (!draft.outbounds.empty()) {
    const auto& tag = draft.outbounds[0].outbound.tag;
    fallback = "the default outbound " + (tag.empty() ? "outbounds[0]" : quoted(tag)) + " would be used";
  } else if (!draft.portals.empty()) {
    fallback = "the default, portal " + quoted(draft.portals[0].value.tag) + ", would be used";
  }
  for (const auto& rule : draft.rules) {
    for (std::size_t i = 0; i < rule.inbound_tags.size(); ++i) {
      const std::string& tag = (*rule.rule.inbound_tags)[i];
      if (in_tags.find(tag) != nullptr || draft.other_in_tags.contains(tag) || tag == draft.api_tag) continue;
      error(rule.inbound_tags[i],
            "no inbound, bridge or dns has the tag " + quoted(tag) +
                (rule.inbound_tags.size() == 1 ? "; the rule never matches" : ""),
            did_you_mean(tag, in_tags.names()));
    }
    const std::string& tag = rule.rule.outbound_tag;
    if (!rule.outbound_tag || tag.empty() || out_tags.find(tag) != nullptr || tag == draft.api_tag) continue;
    error(*rule.outbound_tag, "no outbound, portal or api has the tag " + quoted(tag) + "; " + fallback,
          did_you_mean(tag, out_tags.names()));
  }
}

void check_tags(const Draft& draft, Report& report) {
  Tags in_tags, out_tags;
  const auto duplicate = [&](const std::optional<Value>& place, const std::string& tag, const Value& other) {
    if (place)
      place->refuse("DUPLICATE_TAG", "tag " + quoted(tag) + " is already used by " + element_name(other), "rename one");
  };
  const auto collision = [&](const std::optional<Value>& place, std::string message) {
    if (place) place->refuse("TAG_COLLISION", std::move(message), "rename one");
  };
  for (const auto& item : draft.inbounds) {
    if (const auto* other = in_tags.add(item.inbound.tag, item.self)) duplicate(item.tag, item.inbound.tag, *other);
  }
  Tags bridges;
  for (const auto& item : draft.bridges) {
    const std::string& tag = item.value.tag;
    if (const auto* other = in_tags.find(tag); other != nullptr && bridges.find(tag) == nullptr) {
      collision(item.tag, "bridge tag " + quoted(tag) + " is also the tag of " + element_name(*other));
    }
    bridges.add(tag, item.self);
  }
  for (const auto& item : draft.bridges) in_tags.add(item.value.tag, item.self);
  for (const auto& item : draft.outbounds) {
    if (const auto* other = out_tags.add(item.outbound.tag, item.self)) duplicate(item.tag, item.outbound.tag, *other);
    if (!draft.api_tag.empty() && item.outbound.tag == draft.api_tag) {
      collision(item.tag, "outbound tag " + quoted(draft.api_tag) + " is also the tag of api");
    }
  }
  Tags portals;
  for (const auto& item : draft.portals) {
    const std::string& tag = item.value.tag;
    if (const auto* other = portals.add(tag, item.self)) {
      duplicate(item.tag, tag, *other);
    } else if (out_tags.find(tag) != nullptr) {
      collision(item.tag,
                "portal tag " + quoted(tag) + " is also an outbound tag (V2Ray lets the portal replace that outbound)");
    } else if (!tag.empty() && tag == draft.api_tag) {
      collision(item.tag, "portal tag " + quoted(tag) + " is also the tag of api");
    }
  }
  for (const auto& item : draft.portals) out_tags.add(item.value.tag, item.self);
  check_dangling(draft, in_tags, out_tags, report);
}

/// Who listens on one port: the wildcard takes every address.
struct PortUse {
  std::optional<std::size_t> any, any_v6;
  std::map<IpAddress, std::size_t> addresses;
};

std::optional<std::size_t> claim(PortUse& use, const IpAddress& ip, std::size_t inbound) {
  const IpAddress any_v4;
  IpAddress any_v6;
  any_v6.v6 = true;
  if (use.any_v6) return use.any_v6;  // [::] takes IPv4 too
  if (use.any && !ip.v6) return use.any;
  if (const auto found = use.addresses.find(ip); found != use.addresses.end()) return found->second;
  if (ip == any_v6 && use.any) return use.any;
  if (ip == any_v4 || ip == any_v6) {
    for (const auto& [other, index] : use.addresses) {
      if (ip == any_v6 || !other.v6) return index;
    }
  }
  if (ip == any_v4) {
    use.any = inbound;
  } else if (ip == any_v6) {
    use.any_v6 = inbound;
  } else {
    use.addresses.emplace(ip, inbound);
  }
  return std::nullopt;
}

void check_ports(const Draft& draft, Report& report) {
  constexpr std::size_t kMostListeners = 65'536;
  std::map<std::pair<Network, std::uint16_t>, PortUse> uses;
  std::size_t listeners = 0;
  for (std::size_t i = 0; i < draft.inbounds.size(); ++i) {
    const InboundDraft& item = draft.inbounds[i];
    for (const auto& range : item.inbound.ports) listeners += range.to - range.from + 1u;
    if (listeners > kMostListeners) {
      item.self.refuse("VALUE", "more than 65536 listening ports in all");
      return;
    }
    bool clash = false, privileged = false;
    for (const auto& range : item.inbound.ports) {
      for (std::uint32_t port = std::max<std::uint32_t>(range.from, 1); port <= range.to && !clash; ++port) {
        privileged = privileged || port < 1024;
        for (const Network network : {Network::tcp, Network::udp}) {
          if (!item.inbound.listens(network)) continue;
          const auto other = claim(uses[{network, static_cast<std::uint16_t>(port)}], item.inbound.listen, i);
          if (!other) continue;
          clash = true;
          item.port->refuse("PORT_CLASH",
                            (network == Network::tcp ? "TCP port " : "UDP port ") + std::to_string(port) + " on " +
                                item.inbound.listen.text() + " is already taken by " +
                                (*other == i ? "the same inbound" : element_name(draft.inbounds[*other].self)));
          break;
        }
      }
    }
    if (privileged && item.port) {
      report.note(Severity::info, "PRIVILEGED_PORT", item.port->place(), "a port below 1024 needs a capability",
                  "grant CAP_NET_BIND_SERVICE, or use a higher port");
    }
  }
}

/// A header that nobody may send would change nothing, which is not what was written.
void check_proxies(const Draft& draft) {
  if (!draft.settings.trusted_proxies.empty()) return;
  for (const auto& item : draft.inbounds) {
    if (!item.accept_proxy) continue;
    item.accept_proxy->refuse("VALUE", "no source may send a PROXY header: ebbgate.trustedProxies is empty",
                              "list the addresses of the proxies there, or remove acceptProxyProtocol");
  }
}

}  // namespace

void cross_check(const Draft& draft, Report& report, Depth depth) {
  constexpr std::size_t kMostElements = 10'000;
  const auto bounded = [&](const auto& list, std::string_view what) {
    if (list.size() <= kMostElements) return true;
    list[kMostElements].self.refuse("VALUE", "more than 10000 " + std::string(what));
    return false;
  };
  // The analysis below costs sources times rules: keep both sane before it starts.
  if (!bounded(draft.inbounds, "inbounds") || !bounded(draft.outbounds, "outbounds") ||
      !bounded(draft.rules, "rules") || !bounded(draft.bridges, "bridges") || !bounded(draft.portals, "portals")) {
    return;
  }
  check_tags(draft, report);
  check_ports(draft, report);
  check_proxies(draft);
  if (depth == Depth::reach) check_reach(draft, report);
}

}  // namespace ebb::config
