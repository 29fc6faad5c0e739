// routing. spec/config.md 11, spec/routing.md 2 to 5.
#include <algorithm>
#include <iterator>

#include "common/config/draft.h"
#include "common/config/text.h"
#include "common/routing/matcher.h"

namespace ebb::config {
namespace {

using Check = Result<> (*)(std::string_view);

/// A list field of a rule; nullopt = no condition. Reports entries that `check` does not accept.
std::optional<StringList> read_patterns(const std::optional<Value>& field, Check check, bool names) {
  if (!field) return std::nullopt;
  auto list = read_string_list(*field);
  if (!list || list->items.empty()) return std::nullopt;
  for (std::size_t i = 0; i < list->items.size(); ++i) {
    const auto& item = list->items[i];
    if (routing::uses_geo_file(item)) {
      list->places[i].refuse("UNSUPPORTED", quoted(item) + ": lists from geo files are not built yet",
                             names ? "write the names" : "write the address ranges");
    } else if (const auto good = check(item); !good) {
      list->places[i].refuse(
          "VALUE", good.error().what,
          !names && good.error().what.find("not an IP") != std::string::npos ? "put names under \"domain\"" : "");
    }
  }
  return list;
}

/// Empty entries of these lists never match; a list of nothing else stays as a condition that never holds.
std::optional<std::vector<std::string>> without_empty(std::optional<StringList> list, std::vector<Value>* places) {
  if (!list) return std::nullopt;
  std::vector<std::string> out;
  for (std::size_t i = 0; i < list->items.size(); ++i) {
    if (list->items[i].empty()) continue;
    out.push_back(std::move(list->items[i]));
    if (places != nullptr) places->push_back(list->places[i]);
  }
  return out;
}

void read_domains(Fields& fields, RuleDraft& draft) {
  for (const auto key : {"domain", "domains"}) {
    const auto field = fields.find(key);
    auto list = read_patterns(field, routing::check_domain_pattern, true);
    if (!list) continue;
    if (!draft.domain_field) draft.domain_field = field;
    auto& domains = draft.rule.domains ? *draft.rule.domains : draft.rule.domains.emplace();
    domains.insert(domains.end(), std::make_move_iterator(list->items.begin()),
                   std::make_move_iterator(list->items.end()));
    draft.domains.insert(draft.domains.end(), list->places.begin(), list->places.end());
  }
}

void read_conditions(Fields& fields, RuleDraft& draft) {
  routing::Rule& rule = draft.rule;
  read_domains(fields, draft);
  draft.ip_field = fields.find("ip");
  if (auto list = read_patterns(draft.ip_field, routing::check_ip_pattern, false)) rule.ips = std::move(list->items);
  draft.source_field = fields.find_any({"source", "sourceIP"});
  if (auto list = read_patterns(draft.source_field, routing::check_ip_pattern, false)) {
    rule.sources = std::move(list->items);
  }
  draft.port_field = fields.find("port");
  if (draft.port_field) rule.ports = read_rule_ports(*draft.port_field);
  draft.source_port_field = fields.find("sourcePort");
  if (draft.source_port_field) rule.source_ports = read_rule_ports(*draft.source_port_field);
  if (const auto network = fields.find("network")) {
    auto list = read_networks(*network);
    if (list && !list->empty()) rule.networks = std::move(list);
  }
  draft.user_field = fields.find("user");
  rule.users = without_empty(read_patterns(draft.user_field, routing::check_user_pattern, true), nullptr);
  if (const auto tags = fields.find("inboundTag")) {
    auto list = read_string_list(*tags);
    if (list && !list->items.empty()) rule.inbound_tags = without_empty(std::move(list), &draft.inbound_tags);
  }
}

void read_unbuilt_conditions(Fields& fields, RuleDraft& draft) {
  constexpr std::pair<std::string_view, bool> kUnbuilt[] = {
      {"protocol", true},    {"attrs", true},    {"localIP", false}, {"localPort", false},
      {"vlessRoute", false}, {"process", false}, {"localOS", false}, {"webhook", false}};
  for (const auto& [key, planned] : kUnbuilt) {
    const auto value = fields.find(key);
    if (!value || is_off(value->node())) continue;
    draft.has_unbuilt_condition = true;
    value->refuse("UNSUPPORTED", "rules by " + quoted(key) + (planned ? " are not built yet" : " are not supported"));
  }
}

void read_type(Fields& fields, const Value& element) {
  const auto type = fields.find("type");
  if (!type) {
    Place place = element.missing("type");
    // Where the type would stand: the rule's first key.
    if (!element.node().items.empty()) place.offset = element.node().items.front().key_offset;
    element.report().note(Severity::info, "RULE_TYPE", place,
                          "rule has no \"type\"; V2Ray refuses it, Xray treats it as \"field\"",
                          "accepted as \"field\"");
    return;
  }
  const auto word = type->string();
  if (!word || same_word(*word, "field")) return;
  if (same_word(*word, "chinaip") || same_word(*word, "chinasites")) {
    type->refuse("UNSUPPORTED", "rule type " + quoted(*word) + " is not supported", "write \"type\": \"field\"");
  } else {
    type->refuse("RULE_TYPE", "unknown rule type " + quoted(*word), "write \"type\": \"field\"");
  }
}

void read_target(Fields& fields, RuleDraft& draft, const Draft& whole) {
  draft.outbound_tag = fields.find("outboundTag");
  const auto balancer = fields.find("balancerTag");
  if (draft.outbound_tag) draft.rule.outbound_tag = draft.outbound_tag->string().value_or("");
  const bool to_outbound =
      draft.outbound_tag && (draft.outbound_tag->kind() != Kind::string || !draft.rule.outbound_tag.empty());
  if (to_outbound) {
    if (balancer) balancer->warn("INEFFECTIVE", "\"balancerTag\" has no effect beside \"outboundTag\"");
    return;
  }
  draft.outbound_tag.reset();
  const auto tag = balancer ? balancer->string() : std::nullopt;
  if (balancer && !tag) return;
  if (!tag || tag->empty()) {
    draft.self.refuse("MISSING", "rule names neither outboundTag nor balancerTag");
  } else if (!whole.balancer_tags.contains(*tag)) {
    balancer->refuse("DANGLING", "no balancer has the tag " + quoted(*tag));
  }
}

/// Fields that were refused count: one message for one mistake.
bool has_condition(Fields& fields, const RuleDraft& draft) {
  if (draft.has_unbuilt_condition) return true;
  constexpr std::string_view kConditions[] = {"domain", "domains",  "ip",   "port",    "sourcePort",
                                              "source", "sourceIP", "user", "network", "inboundTag"};
  return std::any_of(std::begin(kConditions), std::end(kConditions), [&](std::string_view key) {
    const auto value = fields.find(key);
    return value && !(value->kind() == Kind::array && value->elements().empty());
  });
}

void read_rule(const Value& element, Draft& draft) {
  RuleDraft out{{}, element, {}, {}, {}, {}, {}, {}, {}, {}, {}, false};
  Fields fields(element, "a rule object");
  if (!fields.valid()) return;
  read_type(fields, element);
  read_conditions(fields, out);
  read_unbuilt_conditions(fields, out);
  read_target(fields, out, draft);
  out.rule.rule_tag = fields.string("ruleTag").value_or("");
  fields.no_effect({"domainMatcher"}, "has no effect on results");
  if (!has_condition(fields, out)) {
    const auto unknown = fields.unknown_keys();
    std::string message = "rule has no condition";
    std::string suggestion = "for a catch-all write \"network\": \"tcp,udp\"";
    if (!unknown.empty()) {
      message += "; " + quoted(unknown.front()) + " is not a known key";
      const auto near =
          did_you_mean(unknown.front(), {"inboundTag", "domain", "ip", "port", "network", "source", "user"});
      if (!near.empty()) suggestion = near;
    }
    element.refuse("RULE_EMPTY", message, suggestion);
  }
  draft.rules.push_back(std::move(out));
}

void read_balancers(const Value& value, Draft& draft) {
  bool any = false;
  for (const auto& element : value.elements("an array of balancer objects")) {
    any = true;
    Fields fields(element, "a balancer object");
    if (!fields.valid()) continue;
    fields.known({"strategy", "fallbackTag"});
    const auto tag = fields.string("tag");
    if (!tag || tag->empty()) {
      element.report().refuse("MISSING", element.missing("tag"), "balancer has no \"tag\"");
    } else if (!draft.balancer_tags.insert(*tag).second) {
      fields.find("tag")->refuse("DUPLICATE_TAG", "balancer tag " + quoted(*tag) + " is used twice", "rename one");
    }
    const auto selector = fields.find("selector");
    const auto list = selector ? read_string_list(*selector) : std::nullopt;
    if (!selector) {
      element.report().refuse("MISSING", element.missing("selector"), "balancer has no \"selector\"",
                              "list tag prefixes");
    } else if (list && list->items.empty()) {
      // An empty list is as good as an absent one: reported where the balancer starts.
      element.report().refuse("VALUE", element.missing("selector"), "selector is empty", "list tag prefixes");
    }
  }
  if (any) value.refuse("UNSUPPORTED", "balancers are not built yet", "name an outboundTag in the rules");
}

void check_strategy(const Value& value) {
  const auto word = value.string();
  if (!word || word->empty()) return;
  std::string folded = lower(*word);
  std::erase_if(folded, [](char c) { return c == '-' || c == '_'; });
  if (folded == "asis" || folded == "useip" || folded == "alwaysip") return;
  if (folded == "ipifnonmatch" || folded == "ipondemand") {
    value.refuse("UNSUPPORTED", "domainStrategy " + quoted(*word) + " is not built yet", "write \"AsIs\"");
    return;
  }
  value.warn("VALUE", "unknown value " + quoted(*word) + " is treated as AsIs",
             did_you_mean(*word, {"AsIs", "IPIfNonMatch", "IPOnDemand"}));
}

void read_rules(const Value& value, Draft& draft) {
  constexpr std::size_t kMostRules = 10'000;  // cross_check() refuses more
  const auto elements = value.elements("an array of rule objects");
  draft.rules.reserve(draft.rules.size() + std::min(elements.size(), kMostRules));
  for (const auto& element : elements) read_rule(element, draft);
}

}  // namespace

void read_routing(const Value& section, Draft& draft) {
  Fields fields(section);
  if (!fields.valid()) return;
  fields.known({"strategy"});  // an old marker, ignored whatever it says
  fields.no_effect({"domainMatcher"}, "has no effect on results");
  if (const auto balancers = fields.find("balancers")) read_balancers(*balancers, draft);
  const auto strategy = fields.find("domainStrategy");
  if (strategy) check_strategy(*strategy);
  if (const auto rules = fields.find("rules")) read_rules(*rules, draft);
  if (const auto settings = fields.find("settings")) {
    Fields legacy(*settings);
    const auto old_strategy = legacy.find("domainStrategy");
    if (old_strategy && strategy) old_strategy->string();  // the newer place wins; only its type counts
    if (old_strategy && !strategy) check_strategy(*old_strategy);
    if (const auto rules = legacy.find("rules")) read_rules(*rules, draft);
  }
}

}  // namespace ebb::config
