// Where connections can end: sources, what is known about each, and the walk through the rules. spec/config.md 18.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/config/draft.h"
#include "common/routing/matcher.h"

namespace ebb::config {

enum class Verdict : std::uint8_t { impossible, possible, certain };  // ordered: the weakest condition decides
enum class Field : std::uint8_t { inbound_tag, network, domain, port, ip, source, source_port, user };
constexpr std::array kFields{Field::inbound_tag, Field::network, Field::domain,      Field::port,
                             Field::ip,          Field::source,  Field::source_port, Field::user};

/// What is known about the connections of one origin.
struct Source {
  std::string_view tag;
  std::optional<Target> target;         // when it is always the same one
  bool delivered = false;               // traffic out of a bridge: any target but a reverse domain
  bool has_source = false;              // a peer address
  const VmessInbound* users = nullptr;  // null: anonymous
  bool any_user = false;                // of a protocol that is not built: anybody
  std::size_t index = 0;                // of the inbound or bridge
};

/// Where a connection ends: an outbound, a portal, or nothing we know.
struct End {
  enum class Kind : std::uint8_t { outbound, portal, nothing } kind = Kind::nothing;
  std::size_t index = 0;
  friend bool operator==(const End&, const End&) = default;
};

/// One way through the rules.
struct Way {
  std::optional<std::size_t> rule;  // none: the default outbound
  End end;
  Verdict verdict = Verdict::possible;
};

class Reach {
 public:
  explicit Reach(const Draft& draft);

  Verdict judge(std::size_t rule, const Source& source) const;
  Verdict judge(std::size_t rule, Field field, const Source& source) const;
  /// Every way the source's connections can take, in rule order; ends with the first certain one.
  std::vector<Way> ways(const Source& source) const;
  End end_of_rule(std::size_t rule) const { return rules_[rule].end; }
  End default_end() const { return default_end_; }
  /// The rule picks out connections by their target and takes a bridge's own connection with it.
  bool tunnel_rule(std::size_t rule) const { return rules_[rule].takes_own_connection; }

  Source inbound(std::size_t index) const;
  Source own_connection(std::size_t bridge) const;
  Source delivered(std::size_t bridge) const;
  /// A bridge that registers with this portal through this inbound.
  Source registration(std::size_t inbound, std::size_t portal) const;

  std::optional<std::size_t> outbound_tagged(std::string_view tag) const;
  std::optional<std::size_t> portal_tagged(std::string_view tag) const;

 private:
  struct Compiled {
    std::optional<routing::DomainMatcher> domains;
    std::optional<routing::IpMatcher> ips;
    std::optional<routing::PortMatcher> ports;
    std::optional<routing::UserMatcher> users;
    std::set<std::string_view> tags;
    bool only_reverse_names = false;
    bool every_port = false;
    bool takes_own_connection = false;
    End end;
  };

  Compiled compile(const RuleDraft& rule) const;
  End end_tagged(std::string_view tag) const;
  Verdict judge_domain(const Compiled& rule, const Source& source) const;
  Verdict judge_port(const Compiled& rule, const routing::Rule& written, const Source& source) const;
  Verdict judge_user(const Compiled& rule, const Source& source) const;

  const Draft& draft_;
  std::map<std::string_view, std::size_t> outbound_tags_, portal_tags_;
  std::set<std::string> reverse_names_;                     // lower case
  std::map<const VmessInbound*, routing::UserSet> emails_;  // of inbounds
  End default_end_;
  std::vector<Compiled> rules_;
};

}  // namespace ebb::config
