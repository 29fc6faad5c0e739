#include "common/config/reach.h"

#include <algorithm>

#include "common/config/text.h"

namespace ebb::config {
namespace {

Verdict yes_or_no(bool yes) { return yes ? Verdict::certain : Verdict::impossible; }

template <class Matcher, class List>
std::optional<Matcher> compiled(const std::optional<List>& list) {
  if (!list) return std::nullopt;
  auto made = Matcher::compile(*list);
  if (!made) return std::nullopt;  // refused elsewhere
  return std::move(*made);
}

}  // namespace

Reach::Reach(const Draft& draft) : draft_(draft) {
  for (std::size_t i = 0; i < draft.outbounds.size(); ++i) {
    const auto& tag = draft.outbounds[i].outbound.tag;
    if (!tag.empty()) outbound_tags_.emplace(tag, i);
  }
  for (std::size_t i = 0; i < draft.portals.size(); ++i) portal_tags_.emplace(draft.portals[i].value.tag, i);
  for (const auto& item : draft.inbounds) {
    const auto* vmess = std::get_if<VmessInbound>(&item.inbound.protocol);
    if (vmess == nullptr) continue;
    auto& emails = emails_[vmess];
    for (const auto& user : vmess->users) emails.insert(user.email);
  }
  for (const auto& bridge : draft.bridges) reverse_names_.insert(lower(bridge.value.domain));
  for (const auto& portal : draft.portals) reverse_names_.insert(lower(portal.value.domain));
  if (!draft.outbounds.empty()) {
    default_end_ = {End::Kind::outbound, 0};
  } else if (draft.api_tag.empty() && !draft.portals.empty()) {
    default_end_ = {End::Kind::portal, 0};
  }
  rules_.reserve(draft.rules.size());
  for (const auto& rule : draft.rules) rules_.push_back(compile(rule));
}

Reach::Compiled Reach::compile(const RuleDraft& draft) const {
  const routing::Rule& rule = draft.rule;
  Compiled out;
  out.domains = compiled<routing::DomainMatcher>(rule.domains);
  out.ips = compiled<routing::IpMatcher>(rule.ips);
  out.users = compiled<routing::UserMatcher>(rule.users);
  if (rule.ports) {
    out.ports.emplace(*rule.ports);
    out.every_port = std::any_of(rule.ports->begin(), rule.ports->end(),
                                 [](const PortRange& r) { return r.from <= 1 && r.to == 65535; });
  }
  if (rule.inbound_tags) out.tags.insert(rule.inbound_tags->begin(), rule.inbound_tags->end());
  if (rule.domains) {
    out.only_reverse_names = std::all_of(rule.domains->begin(), rule.domains->end(), [&](const std::string& text) {
      const auto pattern = routing::parse_domain_pattern(text);
      return pattern.kind == routing::DomainKind::full && reverse_names_.contains(pattern.text);
    });
  }
  if (rule.domains || rule.ports) {
    out.takes_own_connection =
        std::any_of(draft_.bridges.begin(), draft_.bridges.end(), [&](const ReverseDraft<Bridge>& bridge) {
          return (!rule.domains || (out.domains && out.domains->matches(lower(bridge.value.domain)))) &&
                 (!rule.ports || out.ports->matches(0));
        });
  }
  out.end = end_tagged(rule.outbound_tag);
  return out;
}

End Reach::end_tagged(std::string_view tag) const {
  if (const auto outbound = outbound_tagged(tag)) return {End::Kind::outbound, *outbound};
  if (const auto portal = portal_tagged(tag)) return {End::Kind::portal, *portal};
  if (!tag.empty() && tag == draft_.api_tag) return {};
  return default_end_;  // an unknown tag: as V2Ray 4.x
}

std::optional<std::size_t> Reach::outbound_tagged(std::string_view tag) const {
  const auto found = outbound_tags_.find(tag);
  return found == outbound_tags_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::size_t> Reach::portal_tagged(std::string_view tag) const {
  const auto found = portal_tags_.find(tag);
  return found == portal_tags_.end() ? std::nullopt : std::optional(found->second);
}

Source Reach::inbound(std::size_t index) const {
  const Inbound& inbound = draft_.inbounds[index].inbound;
  Source out{inbound.tag, std::nullopt, false, true, nullptr, !draft_.inbounds[index].usable, index};
  if (out.any_user) return out;
  if (const auto* door = std::get_if<DokodemoInbound>(&inbound.protocol)) {
    if (!draft_.inbounds[index].any_target) {
      out.target = Target{door->tcp ? Network::tcp : Network::udp, door->address, door->port};
    }
  } else {
    out.users = std::get_if<VmessInbound>(&inbound.protocol);
  }
  return out;
}

Source Reach::own_connection(std::size_t bridge) const {
  const Bridge& value = draft_.bridges[bridge].value;
  return {value.tag, Target{Network::tcp, value.domain, 0}, false, false, nullptr, false, bridge};
}

Source Reach::delivered(std::size_t bridge) const {
  // A portal of our own tells the visitor's address; a stock one does not.
  return {draft_.bridges[bridge].value.tag, std::nullopt, true, true, nullptr, false, bridge};
}

Source Reach::registration(std::size_t index, std::size_t portal) const {
  Source out = inbound(index);
  if (!out.target) out.target = Target{Network::tcp, draft_.portals[portal].value.domain, 0};
  return out;
}

Verdict Reach::judge_domain(const Compiled& rule, const Source& source) const {
  if (!rule.domains) return Verdict::impossible;
  if (source.target) {
    const auto* name = source.target->name();
    return yes_or_no(name != nullptr && rule.domains->matches(lower(*name)));
  }
  return source.delivered && rule.only_reverse_names ? Verdict::impossible : Verdict::possible;
}

Verdict Reach::judge_port(const Compiled& rule, const routing::Rule& written, const Source& source) const {
  if (source.target) return yes_or_no(rule.ports->matches(source.target->port));
  if (rule.every_port) return Verdict::certain;
  // Port 0 belongs to a bridge's own connection; nothing that is delivered asks for it.
  const bool useful = std::any_of(written.ports->begin(), written.ports->end(),
                                  [](const PortRange& r) { return r.from <= r.to && r.to > 0; });
  return useful ? Verdict::possible : Verdict::impossible;
}

Verdict Reach::judge_user(const Compiled& rule, const Source& source) const {
  if (source.any_user) return Verdict::possible;
  if (!rule.users || source.users == nullptr) return Verdict::impossible;
  if (!rule.users->matches_any(emails_.at(source.users))) return Verdict::impossible;
  const auto& users = source.users->users;
  return std::all_of(users.begin(), users.end(), [&](const VmessUser& user) { return rule.users->matches(user.email); })
             ? Verdict::certain
             : Verdict::possible;
}

Verdict Reach::judge(std::size_t index, Field field, const Source& source) const {
  const Compiled& rule = rules_[index];
  const routing::Rule& written = draft_.rules[index].rule;
  switch (field) {
    case Field::inbound_tag: return written.inbound_tags ? yes_or_no(rule.tags.contains(source.tag)) : Verdict::certain;
    case Field::network: {
      if (!written.networks) return Verdict::certain;
      const auto& networks = *written.networks;
      if (std::find(networks.begin(), networks.end(), Network::tcp) != networks.end()) return Verdict::certain;
      return source.target ? Verdict::impossible : Verdict::possible;
    }
    case Field::domain: return written.domains ? judge_domain(rule, source) : Verdict::certain;
    case Field::port: return written.ports ? judge_port(rule, written, source) : Verdict::certain;
    case Field::ip:
      if (!written.ips) return Verdict::certain;
      if (written.domains || !rule.ips) return Verdict::impossible;  // under AsIs a target is a name or an address
      if (!source.target) return Verdict::possible;
      return yes_or_no(source.target->ip() != nullptr && rule.ips->matches(*source.target->ip()));
    case Field::source:
      if (!written.sources) return Verdict::certain;
      return source.has_source ? Verdict::possible : Verdict::impossible;
    case Field::source_port:
      if (!written.source_ports) return Verdict::certain;
      return source.has_source && !written.source_ports->empty() ? Verdict::possible : Verdict::impossible;
    case Field::user: return written.users ? judge_user(rule, source) : Verdict::certain;
  }
  return Verdict::possible;
}

Verdict Reach::judge(std::size_t rule, const Source& source) const {
  Verdict weakest = draft_.rules[rule].has_unbuilt_condition ? Verdict::possible : Verdict::certain;
  for (const Field field : kFields) {
    weakest = std::min(weakest, judge(rule, field, source));
    if (weakest == Verdict::impossible) break;
  }
  return weakest;
}

std::vector<Way> Reach::ways(const Source& source) const {
  std::vector<Way> out;
  for (std::size_t i = 0; i < rules_.size(); ++i) {
    const Verdict verdict = judge(i, source);
    if (verdict == Verdict::impossible) continue;
    out.push_back({i, rules_[i].end, verdict});
    if (verdict == Verdict::certain) return out;
  }
  out.push_back({std::nullopt, default_end_, Verdict::certain});
  return out;
}

}  // namespace ebb::config
