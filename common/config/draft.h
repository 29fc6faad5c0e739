// A configuration while it is being checked: the values, and where each of them stood.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/config/config.h"
#include "common/config/merge.h"
#include "common/config/reader.h"
#include "common/config/shapes.h"

namespace ebb::config {

struct InboundDraft {
  Inbound inbound;
  Value self;
  std::optional<Value> tag;
  std::optional<Value> port;
  std::optional<Value> accept_proxy;  // where it is switched on
  bool usable = false;                // the protocol was read without a refusal
  bool any_target = false;            // sniffing or followRedirect, refused elsewhere, would decide the target
};

enum class Leads : std::uint8_t { direct, proxy, nowhere };  // what an outbound does with a connection

struct OutboundDraft {
  Outbound outbound;
  Value self;
  std::optional<Value> tag;
  std::optional<Place> mux;  // where it is switched on
  std::string protocol;
  Leads leads = Leads::direct;
  bool usable = false;
};

struct RuleDraft {
  routing::Rule rule;
  Value self;
  std::optional<Value> outbound_tag;
  std::optional<Value> domain_field, ip_field, port_field, source_field, source_port_field, user_field;
  std::vector<Value> domains, inbound_tags;  // places of the entries of `rule`
  bool has_unbuilt_condition = false;        // refused by name; holds for some connections only
};

template <class T>
struct ReverseDraft {
  T value;
  Value self;
  std::optional<Value> tag, domain;
};

struct Draft {
  Log log;
  std::vector<InboundDraft> inbounds;
  std::vector<OutboundDraft> outbounds;
  std::vector<ReverseDraft<Bridge>> bridges;
  std::vector<ReverseDraft<Portal>> portals;
  std::vector<RuleDraft> rules;
  std::set<std::string> balancer_tags;
  std::map<std::uint32_t, PolicyLevel> policy;
  Settings settings;
  std::string api_tag;                  // of the refused `api` section, so that rules to it are not called dangling
  std::set<std::string> other_in_tags;  // dns and loopback tags
  std::optional<Place> first_key;       // of the first file: where an absent section would stand
};

// One reader per section; each reports what it finds and fills its part of the draft.
void read_log(const Value& section, Draft& draft);
void read_policy(const std::optional<Value>& section, Draft& draft);
void read_reverse(const Value& section, Draft& draft);
void read_inbound(const Value& element, const std::optional<Value>& legacy_port, Draft& draft);
void read_outbound(const Value& element, Draft& draft);
void read_routing(const Value& section, Draft& draft);
/// After the reverse section: `portals.TAG` and `bridges.TAG` refine what it declared.
void read_ebbgate(const Value& section, Draft& draft);

/// Parts of inbounds and outbounds.
enum class Side : std::uint8_t { inbound, outbound };
/// An inbound's acceptProxyProtocol, where it is switched on.
std::optional<Value> read_stream(const Value& section, Side side);
/// True when it is enabled.
bool read_sniffing(const Value& section);
/// Where it is switched on, with the section's path; nothing when it is off.
std::optional<Place> read_mux(const Value& section);
/// A vmess `clients` or `users` list. `side`: outbound users have a security, inbound ones an e-mail that must be
/// unique.
std::vector<VmessUser> read_vmess_users(const Value& list, Side side);
/// One user; nothing without a usable id.
std::optional<VmessUser> read_vmess_user(Fields& fields, Side side);

/// What looks at more than one element: spec/config.md 18. Depth::elements: tags, ports and names only.
void cross_check(const Draft& draft, Report& report, Depth depth);

}  // namespace ebb::config
