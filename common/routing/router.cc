#include "common/routing/router.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>
#include <utility>

#include "common/routing/matcher.h"

namespace ebb::routing {
namespace {

using RuleIndex = std::uint32_t;
using TagIndex = std::uint32_t;

constexpr std::array kConditions{Condition::domain,      Condition::user,    Condition::inbound_tag, Condition::port,
                                 Condition::source_port, Condition::network, Condition::ip,          Condition::source};

struct CompiledRule {
  bool by_name = false;  // its domains are all in the name index, `domain` is empty
  std::optional<DomainMatcher> domain;
  std::optional<UserMatcher> user;
  std::optional<std::vector<TagIndex>> inbound_tags;  // sorted
  std::optional<PortMatcher> port;
  std::optional<PortMatcher> source_port;
  std::optional<unsigned> networks;  // bit mask of Network values
  std::optional<IpMatcher> ip;
  std::optional<IpMatcher> source;
  Decision decision;
  std::optional<std::size_t> unknown_tag;  // index into Compiled::unknown_tags
};

/// A rule that has this name in its domain list, under full:, domain: or both.
struct NameUse {
  RuleIndex rule;
  bool subdomains;
};

/// What decide() works out once per subject.
struct Facts {
  const Subject& subject;
  std::optional<std::string_view> lower_name;
  std::optional<TagIndex> inbound_tag;  // empty: no rule names it
};

/// The name in lower case, in place if it is already.
class LowerName {
 public:
  explicit LowerName(std::string_view name) : name_(name) {
    if (std::ranges::none_of(name, [](char c) { return c >= 'A' && c <= 'Z'; })) return;
    if (name.size() > short_.size()) {
      name_ = long_ = to_lower(name);
      return;
    }
    std::ranges::transform(name, short_.begin(),
                           [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; });
    name_ = {short_.data(), name.size()};
  }
  LowerName(const LowerName&) = delete;
  LowerName& operator=(const LowerName&) = delete;
  std::string_view text() const { return name_; }

 private:
  std::array<char, 255> short_;  // the longest name a protocol carries
  std::string long_;
  std::string_view name_;
};

unsigned bit_of(Network network) { return 1u << static_cast<unsigned>(network); }

/// Turns a failed compile() of one field into the rule's error.
template <class Matcher>
Result<> set(std::optional<Matcher>& field, const std::optional<std::vector<std::string>>& patterns,
             std::string_view key) {
  if (!patterns) return {};
  auto compiled = Matcher::compile(*patterns);
  if (!compiled) return std::unexpected{std::move(compiled.error()).in(key)};
  field = std::move(*compiled);
  return {};
}

bool only_names(const std::vector<std::string>& domains) {
  return std::ranges::all_of(domains, [](const std::string& pattern) {
    const DomainKind kind = parse_domain_pattern(pattern).kind;
    return kind == DomainKind::full || kind == DomainKind::subdomain;
  });
}

}  // namespace

struct Router::Compiled {
  std::vector<Rule> rules;
  std::vector<CompiledRule> compiled;  // beside `rules`
  // Every rule is in one of these, or in by_name under each of its names; all ascending.
  TextMap<std::vector<NameUse>> by_name;
  std::vector<std::vector<RuleIndex>> by_inbound_tag;
  std::vector<RuleIndex> others;
  TextMap<TagIndex> inbound_tags;
  Decision fallback;
  UnknownTagHook on_unknown_tag;
  TextMap<std::size_t> unknown_tags;
  std::unique_ptr<std::atomic<bool>[]> unknown_tag_told;

  Result<> add_conditions(RuleIndex index);
  void add_to_index(RuleIndex index);
  TagIndex intern(const std::string& inbound_tag);
  Facts facts_of(const Subject& subject, std::string_view lower_name) const;
  bool named(RuleIndex index, std::string_view lower_name) const;
  bool holds(Condition condition, RuleIndex index, const Facts& facts) const;
  bool holds_apart_from_domain(RuleIndex index, const Facts& facts) const;
  RuleIndex first_match(const Facts& facts) const;
};

TagIndex Router::Compiled::intern(const std::string& inbound_tag) {
  const auto [entry, added] = inbound_tags.try_emplace(inbound_tag, static_cast<TagIndex>(by_inbound_tag.size()));
  if (added) by_inbound_tag.emplace_back();
  return entry->second;
}

Result<> Router::Compiled::add_conditions(RuleIndex index) {
  const Rule& rule = rules[index];
  CompiledRule& out = compiled[index];
  out.by_name = rule.domains && only_names(*rule.domains);
  Result<> done = out.by_name ? Result<>() : set(out.domain, rule.domains, "domain");
  if (done) done = set(out.ip, rule.ips, "ip");
  if (done) done = set(out.source, rule.sources, "source");
  if (done) done = set(out.user, rule.users, "user");
  if (!done) return std::unexpected{std::move(done.error()).in("rules[" + std::to_string(index) + "]")};
  if (rule.ports) out.port.emplace(*rule.ports);
  if (rule.source_ports) out.source_port.emplace(*rule.source_ports);
  if (rule.networks) {
    out.networks = 0;
    for (const Network network : *rule.networks) *out.networks |= bit_of(network);
  }
  if (rule.inbound_tags) {
    out.inbound_tags.emplace();
    for (const std::string& tag : *rule.inbound_tags)
      if (!tag.empty()) out.inbound_tags->push_back(intern(tag));
    std::ranges::sort(*out.inbound_tags);
    const auto repeated = std::ranges::unique(*out.inbound_tags);
    out.inbound_tags->erase(repeated.begin(), repeated.end());
  }
  return {};
}

void Router::Compiled::add_to_index(RuleIndex index) {
  const CompiledRule& rule = compiled[index];
  if (const auto& domains = rules[index].domains; rule.by_name && domains) {
    for (const std::string& written : *domains) {
      const DomainPattern pattern = parse_domain_pattern(written);
      auto& uses = by_name[pattern.text];
      if (uses.empty() || uses.back().rule != index) uses.push_back({index, false});
      if (pattern.kind == DomainKind::subdomain) uses.back().subdomains = true;
    }
  } else if (rule.inbound_tags) {
    for (const TagIndex tag : *rule.inbound_tags) by_inbound_tag[tag].push_back(index);
  } else {
    others.push_back(index);
  }
}

Facts Router::Compiled::facts_of(const Subject& subject, std::string_view lower_name) const {
  Facts facts{subject, {}, {}};
  if (subject.target != nullptr && subject.target->name() != nullptr) facts.lower_name = lower_name;
  const auto tag = inbound_tags.find(subject.inbound_tag);
  if (tag != inbound_tags.end()) facts.inbound_tag = tag->second;
  return facts;
}

bool Router::Compiled::named(RuleIndex index, std::string_view lower_name) const {
  return any_suffix(lower_name, [&](std::string_view suffix) {
    const auto found = by_name.find(suffix);
    return found != by_name.end() && std::ranges::any_of(found->second, [&](const NameUse& use) {
             return use.rule == index && (use.subdomains || suffix.size() == lower_name.size());
           });
  });
}

bool Router::Compiled::holds(Condition condition, RuleIndex index, const Facts& facts) const {
  const CompiledRule& rule = compiled[index];
  const Subject& subject = facts.subject;
  const Target* target = subject.target;
  switch (condition) {
    case Condition::none: return true;
    case Condition::domain:
      if (rule.by_name) return facts.lower_name && named(index, *facts.lower_name);
      return !rule.domain || (facts.lower_name && rule.domain->matches(*facts.lower_name));
    case Condition::user: return !rule.user || rule.user->matches(subject.user);
    case Condition::inbound_tag:
      return !rule.inbound_tags ||
             (facts.inbound_tag && std::ranges::binary_search(*rule.inbound_tags, *facts.inbound_tag));
    case Condition::port: return !rule.port || (target != nullptr && rule.port->matches(target->port));
    case Condition::source_port:
      return !rule.source_port || (subject.source != nullptr && rule.source_port->matches(subject.source->port));
    case Condition::network:
      return !rule.networks || (target != nullptr && (*rule.networks & bit_of(target->network)) != 0);
    case Condition::ip:
      return !rule.ip || (target != nullptr && target->ip() != nullptr && rule.ip->matches(*target->ip()));
    case Condition::source:
      return !rule.source || (subject.source != nullptr && rule.source->matches(subject.source->ip));
  }
  return false;
}

bool Router::Compiled::holds_apart_from_domain(RuleIndex index, const Facts& facts) const {
  constexpr std::array cheapest_first{Condition::inbound_tag, Condition::network, Condition::port,
                                      Condition::source_port, Condition::ip,      Condition::source,
                                      Condition::user};
  return std::ranges::all_of(cheapest_first, [&](Condition c) { return holds(c, index, facts); });
}

/// Conditions have no effects, so the lists may be searched one after the other, each only up to the best rule so far.
RuleIndex Router::Compiled::first_match(const Facts& facts) const {
  auto best = static_cast<RuleIndex>(rules.size());
  const auto search = [&](const std::vector<RuleIndex>& list) {
    for (const RuleIndex index : list) {
      if (index >= best) return;
      if (!holds_apart_from_domain(index, facts) || !holds(Condition::domain, index, facts)) continue;
      best = index;
      return;
    }
  };
  if (facts.lower_name && !by_name.empty()) {
    any_suffix(*facts.lower_name, [&](std::string_view suffix) {
      const auto found = by_name.find(suffix);
      if (found == by_name.end()) return false;
      for (const NameUse& use : found->second) {
        if (use.rule >= best) break;
        if (!use.subdomains && suffix.size() != facts.lower_name->size()) continue;
        if (!holds_apart_from_domain(use.rule, facts)) continue;
        best = use.rule;
        break;
      }
      return false;
    });
  }
  if (facts.inbound_tag) search(by_inbound_tag[*facts.inbound_tag]);
  search(others);
  return best;
}

Result<Router> Router::compile(std::vector<Rule> rules, const Handlers& handlers, UnknownTagHook on_unknown_tag) {
  auto out = std::make_unique<Compiled>();
  out->rules = std::move(rules);
  out->compiled.resize(out->rules.size());
  out->on_unknown_tag = std::move(on_unknown_tag);
  if (!handlers.outbounds.empty())
    out->fallback.kind = Decision::Kind::outbound;
  else if (!handlers.portals.empty())
    out->fallback.kind = Decision::Kind::portal;

  TextMap<Decision> by_tag;
  for (std::size_t i = 0; i < handlers.outbounds.size(); ++i)
    if (!handlers.outbounds[i].empty()) by_tag[handlers.outbounds[i]] = {Decision::Kind::outbound, i, nullptr};
  for (std::size_t i = 0; i < handlers.portals.size(); ++i)
    by_tag[handlers.portals[i]] = {Decision::Kind::portal, i, nullptr};

  for (RuleIndex i = 0; i < out->rules.size(); ++i) {
    auto added = out->add_conditions(i);
    if (!added) return std::unexpected{std::move(added.error())};
    out->add_to_index(i);
    CompiledRule& rule = out->compiled[i];
    const std::string& tag = out->rules[i].outbound_tag;
    const auto handler = by_tag.find(tag);
    rule.decision = handler != by_tag.end() ? handler->second : out->fallback;
    rule.decision.rule = &out->rules[i];
    if (handler == by_tag.end())
      rule.unknown_tag = out->unknown_tags.try_emplace(tag, out->unknown_tags.size()).first->second;
  }
  out->unknown_tag_told = std::make_unique<std::atomic<bool>[]>(out->unknown_tags.size());
  return Router(std::unique_ptr<const Compiled>(std::move(out)));
}

Decision Router::decide(const Subject& subject) const {
  const Compiled& c = *compiled_;
  const std::string* name = subject.target != nullptr ? subject.target->name() : nullptr;
  const LowerName lower(name != nullptr ? std::string_view(*name) : std::string_view());
  const RuleIndex index = c.first_match(c.facts_of(subject, lower.text()));
  if (index == c.rules.size()) return c.fallback;
  const CompiledRule& rule = c.compiled[index];
  if (rule.unknown_tag && c.on_unknown_tag && !c.unknown_tag_told[*rule.unknown_tag].exchange(true))
    c.on_unknown_tag(c.rules[index].outbound_tag);
  return rule.decision;
}

Condition Router::failing_condition(std::size_t index, const Subject& subject) const {
  const std::string* name = subject.target != nullptr ? subject.target->name() : nullptr;
  const LowerName lower(name != nullptr ? std::string_view(*name) : std::string_view());
  const Facts facts = compiled_->facts_of(subject, lower.text());
  const auto failing = std::ranges::find_if(kConditions, [&](Condition condition) {
    return !compiled_->holds(condition, static_cast<RuleIndex>(index), facts);
  });
  return failing == kConditions.end() ? Condition::none : *failing;
}

const std::vector<Rule>& Router::rules() const { return compiled_->rules; }

std::string_view name_of(Condition condition) {
  constexpr std::array<std::string_view, 9> keys{"",           "domain",  "user", "inboundTag", "port",
                                                 "sourcePort", "network", "ip",   "source"};
  return keys[static_cast<std::size_t>(condition)];
}

Router::Router(std::unique_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}
Router::Router(Router&&) noexcept = default;
Router& Router::operator=(Router&&) noexcept = default;
Router::~Router() = default;

}  // namespace ebb::routing
