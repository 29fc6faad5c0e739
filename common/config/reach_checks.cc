// What the walk through the rules shows: tunnels that never come up, loops, rules that never match. spec/config.md 18.
#include <algorithm>

#include "common/config/cross_checks.h"
#include "common/config/reach.h"
#include "common/config/text.h"

namespace ebb::config {
namespace {

class ReachChecks {
 public:
  ReachChecks(const Draft& draft, Report& report) : draft_(draft), report_(report), reach_(draft) {}

  void run() {
    for (std::size_t i = 0; i < draft_.bridges.size(); ++i) check_bridge(i);
    for (std::size_t i = 0; i < draft_.portals.size(); ++i) check_portal(i);
    check_default_portal();
    check_mux();
    const std::vector<Fate> fates = fates_of_rules();
    for (std::size_t i = 0; i < draft_.rules.size(); ++i) {
      check_rule(i, fates[i]);
      check_substrings(i);
    }
  }

 private:
  /// The rule's position, or the routing section's first rule, or the element itself.
  Place rules_place(const Value& fallback) const {
    if (draft_.rules.empty()) return fallback.place();
    Place place = draft_.rules.back().self.place();
    place.path = "$.routing.rules";
    return place;
  }

  std::string end_name(const End& end) const {
    if (end.kind == End::Kind::portal) return "portal " + quoted(draft_.portals[end.index].value.tag);
    if (end.kind == End::Kind::nothing) return "nothing";
    const auto& tag = draft_.outbounds[end.index].outbound.tag;
    return tag.empty() ? "outbounds[" + std::to_string(end.index) + "]" : quoted(tag);
  }

  bool leads_to_proxy(const End& end, const Bridge& bridge) const {
    if (end.kind == End::Kind::outbound) return draft_.outbounds[end.index].leads == Leads::proxy;
    // A portal of this process: the bridge registers there, or its connection is a visitor that a further tunnel takes.
    return end.kind == End::Kind::portal && !bridge.domain.empty();
  }

  void check_bridge(std::size_t index) {
    const auto& draft = draft_.bridges[index];
    if (draft.value.tag.empty() || draft.value.domain.empty()) return;
    const auto own = reach_.ways(reach_.own_connection(index)).front();
    check_domain_case(draft);
    if (leads_to_proxy(own.end, draft.value)) {
      if (own.end.kind == End::Kind::outbound) carriers_.insert(own.end.index);
      check_loop(index, own.end);
    } else {
      check_no_tunnel(index, own);
    }
  }

  void check_no_tunnel(std::size_t index, const Way& own) {
    const auto& bridge = draft_.bridges[index];
    const Source connection = reach_.own_connection(index);
    std::optional<std::size_t> other_name;
    for (std::size_t i = 0; i < draft_.rules.size(); ++i) {
      if (!leads_to_proxy(reach_.end_of_rule(i), bridge.value)) continue;
      if (reach_.judge(i, connection) == Verdict::certain && own.rule) {
        shadowed_.insert(i);
        report_.note(Severity::error, "BRIDGE_SHADOWED", draft_.rules[i].self.place(),
                     "never reached: rule " + std::to_string(*own.rule) + " already takes everything from " +
                         quoted(bridge.value.tag) + ", including the connection to the portal",
                     "swap the two rules");
        return;
      }
      if (draft_.rules[i].rule.domains && reach_.judge(i, Field::inbound_tag, connection) == Verdict::certain)
        other_name = i;
    }
    const std::string where =
        end_name(own.end) +
        (own.end.kind == End::Kind::outbound ? " (" + draft_.outbounds[own.end.index].protocol + ")" : "");
    if (other_name) {
      report_.note(Severity::error, "BRIDGE_NO_TUNNEL_RULE", bridge.domain->place(),
                   "the connection for " + quoted(bridge.value.domain) + " would leave through " + where +
                       ", not through a proxy outbound",
                   "rule " + std::to_string(*other_name) + " matches " +
                       quoted(draft_.rules[*other_name].rule.domains->front()) +
                       "; use the same domain in both places");
      return;
    }
    Place place = bridge.self.place();
    place.offset = bridge.domain->node().key_offset;
    report_.note(Severity::error, "BRIDGE_NO_TUNNEL_RULE", place,
                 "no rule sends the connection for " + quoted(bridge.value.domain) +
                     " to a proxy outbound; it would go to " + where,
                 "add a rule for inboundTag " + bridge.value.tag + " + domain full:" + bridge.value.domain);
  }

  /// Delivered traffic must not go back to where it came from. Rules that pick out the tunnel by its name or port are
  /// what brings the bridge up; what else they match is the visitor's business (DOMAIN_SUBSTRING).
  void check_loop(std::size_t index, const End& carrier) {
    const auto& bridge = draft_.bridges[index];
    for (const Way& way : reach_.ways(reach_.delivered(index))) {
      if (!way.rule && way.end != carrier) {
        report_.note(Severity::info, "BRIDGE_IMPLICIT_DEFAULT", bridge.self.place(),
                     "traffic of bridge " + quoted(bridge.value.tag) + " relies on the default, " + end_name(way.end),
                     "add a rule inboundTag " + bridge.value.tag + " -> " + end_name(way.end));
      }
      if (way.end != carrier || (way.rule && reach_.tunnel_rule(*way.rule))) continue;
      const std::string add = "add {\"type\":\"field\",\"inboundTag\":[" + quoted(bridge.value.tag) +
                              "],\"outboundTag\":" + local_outbound() + "}";
      if (!way.rule) {
        report_.refuse("BRIDGE_LOOP", rules_place(bridge.self),
                       "traffic arriving through bridge " + quoted(bridge.value.tag) +
                           " matches no rule and goes to the default outbound " + end_name(carrier) +
                           ", back to the portal",
                       add);
      } else if (carrier.kind == End::Kind::portal) {
        report_.refuse("BRIDGE_LOOP", target_place(*way.rule),
                       "bridge " + quoted(bridge.value.tag) + " registers with " + end_name(carrier) +
                           " of the same process and its traffic is routed back into it",
                       "send bridge traffic to a freedom outbound");
      } else {
        report_.refuse("BRIDGE_LOOP", target_place(*way.rule),
                       "traffic arriving through bridge " + quoted(bridge.value.tag) + " can go to " +
                           end_name(carrier) + ", back to the portal",
                       "send it to a freedom outbound");
      }
      return;
    }
  }

  /// The rule's path, at the tag that should be another one.
  Place target_place(std::size_t rule) const {
    Place place = draft_.rules[rule].self.place();
    if (const auto& tag = draft_.rules[rule].outbound_tag) place.offset = tag->node().offset;
    return place;
  }

  std::string local_outbound() const {
    for (const auto& item : draft_.outbounds) {
      if (item.leads == Leads::direct && !item.outbound.tag.empty()) return quoted(item.outbound.tag);
    }
    return "\"a freedom outbound\"";
  }

  void check_domain_case(const ReverseDraft<Bridge>& bridge) {
    const std::string folded = lower(bridge.value.domain);
    for (const auto& rule : draft_.rules) {
      if (!rule.rule.domains) continue;
      for (const std::string& text : *rule.rule.domains) {
        const auto pattern = routing::parse_domain_pattern(text);
        if (pattern.kind == routing::DomainKind::regexp || pattern.text != folded) continue;
        if (text.ends_with(bridge.value.domain)) continue;
        report_.note(Severity::error, "DOMAIN_CASE", bridge.domain->place(),
                     quoted(bridge.value.domain) + " differs in letter case from the rule " + quoted(text) +
                         "; the portal compares byte for byte",
                     "use lower case everywhere");
        return;
      }
    }
  }

  bool can_register(std::size_t index, const Portal& portal) const {
    const InboundDraft& item = draft_.inbounds[index];
    return !item.usable || item.inbound.authenticates() || portal.allow_unauthenticated;
  }

  static Place tag_or_self(const InboundDraft& item, std::string path) {
    Place place = item.tag ? item.tag->place() : item.self.place();
    place.path = std::move(path);
    return place;
  }

  void check_portal(std::size_t index) {
    const auto& draft = draft_.portals[index];
    // Where balancers (refused elsewhere) would send a connection is not known.
    if (draft.value.tag.empty() || draft_.inbounds.empty() || !draft_.balancer_tags.empty()) return;
    const End here{End::Kind::portal, index};
    const auto ends_here = [&](const Source& source) {
      const auto ways = reach_.ways(source);
      return std::any_of(ways.begin(), ways.end(), [&](const Way& way) { return way.end == here; });
    };
    std::optional<std::size_t> tunnel_inbound, public_inbound;
    bool registers = false, used = false;
    for (std::size_t i = 0; i < draft_.inbounds.size(); ++i) {
      const bool can = can_register(i, draft.value);
      if (can && !tunnel_inbound) tunnel_inbound = i;
      if (!can && !public_inbound) public_inbound = i;
      registers = registers || (can && ends_here(reach_.registration(i, index)));
      // An authenticated inbound whose users are people may be public too, unless a rule keeps all but the name out.
      used = used || (!can && ends_here(reach_.inbound(i)));
    }
    for (std::size_t i = 0; i < draft_.bridges.size(); ++i) {
      registers = registers || reach_.ways(reach_.own_connection(i)).front().end == here;
      used = used || ends_here(reach_.delivered(i));
    }
    if (!registers) report_unreachable(draft, tunnel_inbound);
    if (!used && public_inbound) {
      const auto& inbound = draft_.inbounds[*public_inbound];
      report_.warn("PORTAL_UNUSED", tag_or_self(inbound, draft.self.path()),
                   "nothing but the tunnel inbound reaches portal " + quoted(draft.value.tag),
                   "add a rule inboundTag " + inbound.inbound.tag + " -> " + draft.value.tag);
    }
  }

  void report_unreachable(const ReverseDraft<Portal>& portal, std::optional<std::size_t> inbound) {
    if (!inbound) {
      report_.note(
          Severity::error, "PORTAL_UNREACHABLE_FOR_BRIDGE", portal.self.place(),
          "no inbound authenticates its peers; bridges will not register with portal " + quoted(portal.value.tag),
          "add a vmess inbound");
      return;
    }
    const auto& item = draft_.inbounds[*inbound];
    report_.note(Severity::error, "PORTAL_UNREACHABLE_FOR_BRIDGE", tag_or_self(item, item.self.path()),
                 "no rule sends " + (item.inbound.tag.empty() ? item.self.path() : quoted(item.inbound.tag)) +
                     " to portal " + quoted(portal.value.tag) + "; bridges will not register",
                 "add a rule inboundTag " + item.inbound.tag + " -> " + portal.value.tag);
  }

  void check_default_portal() {
    if (reach_.default_end().kind != End::Kind::portal || !draft_.first_key) return;
    report_.note(Severity::info, "PORTAL_IS_DEFAULT", *draft_.first_key,
                 "there are no outbounds, so " + end_name(reach_.default_end()) +
                     " is the default for everything that matches no rule",
                 "add {\"tag\":\"block\",\"protocol\":\"blackhole\"} as the first outbound");
  }

  void check_mux() {
    for (std::size_t i = 0; i < draft_.outbounds.size(); ++i) {
      const auto& mux = draft_.outbounds[i].mux;
      if (!mux) continue;
      if (carriers_.contains(i)) {
        report_.warn("TUNNEL_MUX", *mux,
                     "mux is enabled on an outbound that carries a bridge connection; it is ignored",
                     "set \"enabled\": false; reverse already multiplexes");
      } else {
        report_.refuse("UNSUPPORTED", *mux, "mux on an ordinary outbound is not built yet", "set \"enabled\": false");
      }
    }
  }

  std::vector<Source> sources() const {
    std::vector<Source> out;
    for (std::size_t i = 0; i < draft_.inbounds.size(); ++i) out.push_back(reach_.inbound(i));
    for (std::size_t i = 0; i < draft_.bridges.size(); ++i) {
      out.push_back(reach_.own_connection(i));
      out.push_back(reach_.delivered(i));
    }
    return out;
  }

  const std::optional<Value>& place_of(const RuleDraft& rule, Field field) const {
    switch (field) {
      case Field::domain: return rule.domain_field;
      case Field::port: return rule.port_field;
      case Field::ip: return rule.ip_field;
      case Field::source: return rule.source_field;
      case Field::source_port: return rule.source_port_field;
      case Field::user: return rule.user_field;
      default: return nowhere_;
    }
  }

  /// What becomes of a rule, all sources together.
  struct Fate {
    bool possible = false;      // some connection can meet all its conditions
    bool open = false;          // and no earlier rule is certain to take that one
    std::size_t hidden_by = 0;  // possible and not open: the rule that takes those of the last such source
  };

  /// One walk per source: a rule is hidden from it once an earlier one was certain, the first of those.
  std::vector<Fate> fates_of_rules() const {
    std::vector<Fate> fates(draft_.rules.size());
    for (const Source& source : sources_) {
      std::optional<std::size_t> certain;
      for (std::size_t i = 0; i < fates.size(); ++i) {
        const Verdict verdict = reach_.judge(i, source);
        if (verdict == Verdict::impossible) continue;
        Fate& fate = fates[i];
        fate.possible = true;
        if (certain) {
          fate.hidden_by = *certain;
        } else {
          fate.open = true;
          if (verdict == Verdict::certain) certain = i;
        }
      }
    }
    return fates;
  }

  void check_rule(std::size_t index, const Fate& fate) {
    if (!fate.possible) return check_impossible(index);
    check_told_source(index);
    if (fate.open || shadowed_.contains(index)) return;
    const End end = reach_.end_of_rule(index);
    const bool serious = end.kind == End::Kind::portal || for_tunnel(index);
    report_.note(serious ? Severity::error : Severity::warning, "UNREACHABLE", draft_.rules[index].self.place(),
                 "never reached: rule " + std::to_string(fate.hidden_by) + " already takes what this one would match",
                 "move it up, or remove it");
  }

  void check_impossible(std::size_t index) {
    const RuleDraft& rule = draft_.rules[index];
    std::vector<Source> tagged;
    for (const Source& source : sources_) {
      if (reach_.judge(index, Field::inbound_tag, source) != Verdict::impossible) tagged.push_back(source);
    }
    if (tagged.empty()) return;  // its tags are dangling, and reported as such
    for (const Field field : kFields) {
      const bool never = std::all_of(tagged.begin(), tagged.end(), [&](const Source& source) {
        return reach_.judge(index, field, source) == Verdict::impossible;
      });
      const auto& place = place_of(rule, field);
      if (!never || !place) continue;
      Place at = place->place();
      if (place->kind() == Kind::array && !place->node().items.empty()) at.offset = place->node().items.front().offset;
      report_.note(for_tunnel(index) ? Severity::error : Severity::warning, "RULE_NEVER_MATCHES", at,
                   why_never(rule, field, tagged), {});
      return;
    }
    report_.warn("RULE_NEVER_MATCHES", rule.self.place(), "no connection can meet all conditions of this rule");
  }

  /// Stock portals do not tell a bridge who the visitor is.
  void check_told_source(std::size_t index) {
    const RuleDraft& rule = draft_.rules[index];
    const auto& place = rule.source_field ? rule.source_field : rule.source_port_field;
    if (!place) return;
    bool told = false;
    for (const Source& source : sources_) {
      if (reach_.judge(index, source) == Verdict::impossible) continue;
      if (!source.delivered) return;
      told = true;
    }
    if (!told) return;
    report_.note(Severity::info, "COMPAT", place->place(),
                 "the visitor's address is known behind a bridge only when its portal is an ebbgate too",
                 "with any other portal this rule never matches");
  }

  /// A rule meant to bring a bridge up.
  bool for_tunnel(std::size_t index) const {
    const End end = reach_.end_of_rule(index);
    return end.kind == End::Kind::outbound && draft_.outbounds[end.index].leads == Leads::proxy &&
           std::any_of(draft_.bridges.begin(), draft_.bridges.end(), [&](const auto& bridge) {
             const auto& tags = draft_.rules[index].rule.inbound_tags;
             return tags && std::find(tags->begin(), tags->end(), bridge.value.tag) != tags->end();
           });
  }

  std::string why_never(const RuleDraft& rule, Field field, const std::vector<Source>& tagged) const {
    const std::string from = "what comes from " + quoted(tagged.front().tag);
    const auto& target = tagged.front().target;
    switch (field) {
      case Field::port:
        if (rule.rule.ports->empty()) return "port 0 as a number gives an empty list; the rule never matches";
        return from + " never has this port";
      case Field::domain:
        if (target) return from + " always has the target " + target->text().substr(4) + "; this can never match";
        return from + " never has this name";
      case Field::ip:
        if (rule.rule.domains) return "domain and ip in one rule never hold together: a target is a name or an address";
        return from + " never has such an address as its target";
      case Field::source:
      case Field::source_port: return from + " has no source address";
      case Field::user: return from + " has no such user";
      default: return "the rule never matches";
    }
  }

  void check_substrings(std::size_t index) {
    const RuleDraft& rule = draft_.rules[index];
    if (!rule.rule.domains || rule.domains.size() != rule.rule.domains->size()) return;
    for (std::size_t i = 0; i < rule.domains.size(); ++i) {
      const std::string& text = (*rule.rule.domains)[i];
      const bool name = text.find('.') != std::string::npos && text.find(':') == std::string::npos &&
                        !text.starts_with('.') && text.find_first_not_of(kNameCharacters) == std::string::npos;
      if (!name) continue;
      report_.warn("DOMAIN_SUBSTRING", rule.domains[i].place(),
                   quoted(text) + " matches as a substring, e.g. " + quoted("a" + text + ".example"),
                   "write \"full:" + text + "\" or \"domain:" + text + "\"");
      return;  // one per rule: long lists are written on purpose
    }
  }

  static constexpr std::string_view kNameCharacters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";

  const Draft& draft_;
  Report& report_;
  Reach reach_;
  std::vector<Source> sources_ = sources();
  std::set<std::size_t> carriers_;  // outbounds that carry a bridge
  std::set<std::size_t> shadowed_;  // rules already reported
  const std::optional<Value> nowhere_;
};

}  // namespace

void check_reach(const Draft& draft, Report& report) { ReachChecks(draft, report).run(); }

}  // namespace ebb::config
