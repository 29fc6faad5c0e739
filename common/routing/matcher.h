// One condition of a rule, compiled: lists of name, address, port and user patterns. Facts: spec/routing.md 3-5.
// Everything here is immutable after compile() and usable from several threads at once; matching never allocates.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/base/address.h"
#include "common/base/bytes.h"
#include "common/base/result.h"
#include "common/routing/regexp.h"
#include "common/routing/rule.h"

namespace ebb::routing {

/// What one entry of a rule's "domain" list asks for.
enum class DomainKind : std::uint8_t {
  substring,  // "text", "keyword:text", and any unknown prefix taken literally
  full,       // "full:name"
  subdomain,  // "domain:name": the name and everything that ends in ".name"
  regexp,     // "regexp:re"
  dotless,    // "dotless:text": names without a dot that contain text
  geo_file,   // "geosite:list", "ext:file:list", "ext-domain:…", "ext-site:…": refused, not built yet
};

struct DomainPattern {
  DomainKind kind = DomainKind::substring;
  std::string text;  // without the prefix; lower case except for regexp
};

/// Splits prefix and text. Never fails: what a pattern means is separate from whether it is usable.
DomainPattern parse_domain_pattern(std::string_view pattern);

/// Whether one "domain" entry can be used. Errors: config; `what` is the message shown to the user, e.g.
/// `regular expression is not RE2: look-ahead "(?!" is not supported`. spec/routing.md 4.
Result<> check_domain_pattern(std::string_view pattern);

/// Whether one "ip" or "source" entry can be used. Errors: config; `"nas.lan" is not an IP address or CIDR`,
/// `prefix length 33 is greater than 32`. spec/routing.md 5.
Result<> check_ip_pattern(std::string_view pattern);

/// Whether one "user" entry can be used; only "regexp:" ones can fail. spec/routing.md 3.
Result<> check_user_pattern(std::string_view pattern);

/// True for entries that read a geo file ("geosite:", "geoip:", "ext…:", with any "!" before): refused by the checks
/// above as not built yet.
bool uses_geo_file(std::string_view ip_or_domain_pattern);

/// Hash and equality that let a std::string table be asked with a std::string_view.
struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>{}(text); }
};
template <class Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;
using TextSet = std::unordered_set<std::string, TextHash, std::equal_to<>>;

/// ASCII letters to lower case, the only case rule names have here.
std::string to_lower(std::string_view text);

/// Calls visit(suffix) for the name itself and for what follows each of its dots, longest first, until visit returns
/// true.
template <class Visit>
bool any_suffix(std::string_view name, Visit visit) {
  for (;;) {
    if (visit(name)) return true;
    const auto dot = name.find('.');
    if (dot == name.npos) return false;
    name.remove_prefix(dot + 1);
  }
}

/// A rule's "domain" list: names in a hash table by label, the rest one by one.
class DomainMatcher {
 public:
  /// Errors: config, as check_domain_pattern says, `where` = "[index]".
  static Result<DomainMatcher> compile(std::span<const std::string> patterns);
  /// `lower_name`: the target's name in lower case; a trailing dot is significant.
  bool matches(std::string_view lower_name) const;

 private:
  struct NameUse {
    bool full = false;
    bool subdomain = false;
  };
  bool every_name_ = false;  // an empty substring
  TextMap<NameUse> names_;
  std::vector<std::string> substrings_;
  std::vector<std::string> dotless_;
  std::vector<Regexp> regexps_;
};

/// A rule's "ip" or "source" list as sorted disjoint ranges, one set per family: IPv4 entries never match IPv6
/// addresses.
class IpMatcher {
 public:
  /// Errors: config, as check_ip_pattern says, `where` = "[index]".
  static Result<IpMatcher> compile(std::span<const std::string> patterns);
  bool matches(const IpAddress& ip) const;

  struct Key {  // the address as a number: IPv6 in both halves, IPv4 in `low`
    std::uint64_t high = 0;
    std::uint64_t low = 0;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  struct Range {
    Key first;
    Key last;  // inclusive
  };

 private:
  std::vector<Range> v4_;
  std::vector<Range> v6_;
};

/// A rule's "port" or "sourcePort" list. Reversed ranges are dropped: they never match.
class PortMatcher {
 public:
  explicit PortMatcher(std::span<const PortRange> ranges);
  bool matches(std::uint16_t port) const;

 private:
  std::vector<PortRange> ranges_;  // sorted, disjoint
};

using UserSet = std::unordered_set<std::string_view>;

/// A rule's "user" list: exact and case-sensitive, "regexp:" searches. Empty entries and anonymous users never match.
class UserMatcher {
 public:
  /// Errors: config, `where` = "[index]".
  static Result<UserMatcher> compile(std::span<const std::string> users);
  bool matches(std::string_view user) const;
  /// Whether it matches any of them; does not look at each unless there is a "regexp:".
  bool matches_any(const UserSet& users) const;

 private:
  TextSet users_;
  std::vector<Regexp> regexps_;
};

}  // namespace ebb::routing
