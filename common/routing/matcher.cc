#include "common/routing/matcher.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <optional>

namespace ebb::routing {
namespace {

constexpr std::string_view kRegexpPrefix = "regexp:";

std::unexpected<Error> refuse(std::string what) { return std::unexpected{Error{Errc::config, std::move(what), {}}}; }

std::unexpected<Error> refuse_geo_file(std::string_view pattern) {
  return refuse("\"" + std::string(pattern) + "\" needs a geo file; geo files are not supported yet");
}

std::string index_text(std::size_t index) { return "[" + std::to_string(index) + "]"; }

using Key = IpMatcher::Key;
using Range = IpMatcher::Range;
constexpr std::uint64_t kAllOnes = std::numeric_limits<std::uint64_t>::max();
constexpr Key kLastV4{0, 0xffff'ffff};
constexpr Key kLastV6{kAllOnes, kAllOnes};

Key key_of(const IpAddress& ip) {
  const ConstSpan bytes(ip.bytes);
  return ip.v6 ? Key{load_be64(bytes), load_be64(bytes.subspan(8))} : Key{0, load_be32(bytes)};
}
Key after(Key key) { return {key.low == kAllOnes ? key.high + 1 : key.high, key.low + 1}; }
Key before(Key key) { return {key.low == 0 ? key.high - 1 : key.high, key.low - 1}; }

/// The network of `prefix` leading bits around `ip`, host bits masked off.
Range network_of(const IpAddress& ip, unsigned prefix) {
  const unsigned host_bits = (ip.v6 ? 128 : 32) - prefix;
  const Key hosts{host_bits <= 64 ? 0 : kAllOnes >> (128 - host_bits),
                  host_bits >= 64 ? kAllOnes : (std::uint64_t{1} << host_bits) - 1};
  const Key key = key_of(ip);
  return {{key.high & ~hosts.high, key.low & ~hosts.low}, {key.high | hosts.high, key.low | hosts.low}};
}

struct Network4or6 {
  bool inverted = false;
  bool v6 = false;
  Range range;
};

Result<Network4or6> parse_ip_pattern(std::string_view pattern) {
  Network4or6 out;
  std::string_view text = pattern;
  while (text.starts_with('!')) {
    out.inverted = !out.inverted;
    text.remove_prefix(1);
  }
  if (uses_geo_file(text)) return refuse_geo_file(pattern);
  const auto slash = text.find('/');
  const Host host = parse_host(text.substr(0, slash));
  const auto* ip = std::get_if<IpAddress>(&host);
  const std::string not_an_address = "\"" + std::string(pattern) + "\" is not an IP address or CIDR";
  if (ip == nullptr) return refuse(not_an_address);
  const unsigned longest = ip->v6 ? 128 : 32;
  unsigned prefix = longest;
  if (slash != text.npos) {
    const std::string_view digits = text.substr(slash + 1);
    const bool number = !digits.empty() && digits.find_first_not_of("0123456789") == digits.npos;
    if (!number) return refuse(not_an_address);
    const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), prefix);
    if (failed != std::errc() || prefix > longest)
      return refuse("prefix length " + std::string(digits) + " is greater than " + std::to_string(longest));
  }
  out.v6 = ip->v6;
  out.range = network_of(*ip, prefix);
  return out;
}

/// Sorts by start and joins what overlaps or touches, so that one binary search answers.
void normalize(std::vector<Range>& ranges, Key last) {
  std::ranges::sort(ranges, {}, &Range::first);
  std::vector<Range> out;
  for (const Range& range : ranges) {
    if (!out.empty() && (out.back().last == last || range.first <= after(out.back().last)))
      out.back().last = std::max(out.back().last, range.last);
    else
      out.push_back(range);
  }
  ranges = std::move(out);
}

template <class R, class K>
bool inside(const std::vector<R>& ranges, K key, K R::* first, K R::* last) {
  const auto next = std::ranges::upper_bound(ranges, key, {}, first);
  return next != ranges.begin() && key <= *std::prev(next).*last;
}

}  // namespace

std::string to_lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c | 0x20);
  return out;
}

bool uses_geo_file(std::string_view pattern) {
  while (pattern.starts_with('!')) pattern.remove_prefix(1);
  static constexpr std::array<std::string_view, 6> kPrefixes{
      "geosite:", "geoip:", "ext:", "ext-domain:", "ext-site:", "ext-ip:"};
  return std::ranges::any_of(kPrefixes, [&](std::string_view prefix) { return pattern.starts_with(prefix); });
}

DomainPattern parse_domain_pattern(std::string_view pattern) {
  struct Prefix {
    std::string_view text;
    DomainKind kind;
  };
  static constexpr std::array<Prefix, 9> kPrefixes{{{"keyword:", DomainKind::substring},
                                                    {"full:", DomainKind::full},
                                                    {"domain:", DomainKind::subdomain},
                                                    {kRegexpPrefix, DomainKind::regexp},
                                                    {"dotless:", DomainKind::dotless},
                                                    {"geosite:", DomainKind::geo_file},
                                                    {"ext:", DomainKind::geo_file},
                                                    {"ext-domain:", DomainKind::geo_file},
                                                    {"ext-site:", DomainKind::geo_file}}};
  for (const Prefix& prefix : kPrefixes) {
    if (!pattern.starts_with(prefix.text)) continue;
    const std::string_view text = pattern.substr(prefix.text.size());
    return {prefix.kind, prefix.kind == DomainKind::regexp ? std::string(text) : to_lower(text)};
  }
  return {DomainKind::substring, to_lower(pattern)};
}

Result<> check_domain_pattern(std::string_view pattern) {
  const DomainPattern parsed = parse_domain_pattern(pattern);
  if (parsed.kind == DomainKind::geo_file) return refuse_geo_file(pattern);
  if (parsed.kind == DomainKind::dotless && parsed.text.find('.') != parsed.text.npos)
    return refuse("\"" + std::string(pattern) + "\" can never match: names without a dot cannot contain one");
  if (parsed.kind == DomainKind::regexp) {
    auto compiled = Regexp::compile(parsed.text);
    if (!compiled) return std::unexpected{std::move(compiled.error())};
  }
  return {};
}

Result<> check_ip_pattern(std::string_view pattern) {
  auto parsed = parse_ip_pattern(pattern);
  if (!parsed) return std::unexpected{std::move(parsed.error())};
  return {};
}

Result<> check_user_pattern(std::string_view pattern) {
  if (!pattern.starts_with(kRegexpPrefix)) return {};
  auto compiled = Regexp::compile(pattern.substr(kRegexpPrefix.size()));
  if (!compiled) return std::unexpected{std::move(compiled.error())};
  return {};
}

Result<DomainMatcher> DomainMatcher::compile(std::span<const std::string> patterns) {
  DomainMatcher out;
  for (std::size_t i = 0; i < patterns.size(); ++i) {
    DomainPattern pattern = parse_domain_pattern(patterns[i]);
    if (pattern.kind == DomainKind::regexp) {
      auto compiled = Regexp::compile(pattern.text);
      if (!compiled) return std::unexpected{std::move(compiled.error()).in(index_text(i))};
      out.regexps_.push_back(std::move(*compiled));
      continue;
    }
    auto checked = check_domain_pattern(patterns[i]);
    if (!checked) return std::unexpected{std::move(checked.error()).in(index_text(i))};
    if (pattern.kind == DomainKind::full)
      out.names_[std::move(pattern.text)].full = true;
    else if (pattern.kind == DomainKind::subdomain)
      out.names_[std::move(pattern.text)].subdomain = true;
    else if (pattern.kind == DomainKind::dotless)
      out.dotless_.push_back(std::move(pattern.text));
    else if (pattern.text.empty())
      out.every_name_ = true;
    else
      out.substrings_.push_back(std::move(pattern.text));
  }
  return out;
}

bool DomainMatcher::matches(std::string_view lower_name) const {
  if (every_name_) return true;
  const auto named = [&](std::string_view suffix) {
    const auto found = names_.find(suffix);
    return found != names_.end() && (found->second.subdomain || suffix.size() == lower_name.size());
  };
  const auto contained = [&](const std::string& part) { return lower_name.find(part) != lower_name.npos; };
  if (!names_.empty() && any_suffix(lower_name, named)) return true;
  if (std::ranges::any_of(substrings_, contained)) return true;
  if (!dotless_.empty() && lower_name.find('.') == lower_name.npos && std::ranges::any_of(dotless_, contained))
    return true;
  return std::ranges::any_of(regexps_, [&](const Regexp& regexp) { return regexp.found_in(lower_name); });
}

Result<IpMatcher> IpMatcher::compile(std::span<const std::string> patterns) {
  IpMatcher out;
  for (std::size_t i = 0; i < patterns.size(); ++i) {
    auto parsed = parse_ip_pattern(patterns[i]);
    if (!parsed) return std::unexpected{std::move(parsed.error()).in(index_text(i))};
    auto& family = parsed->v6 ? out.v6_ : out.v4_;
    const Key last = parsed->v6 ? kLastV6 : kLastV4;
    if (!parsed->inverted) {
      family.push_back(parsed->range);
      continue;
    }
    // Everything outside, the other family included: it has no address in this entry.
    if (parsed->range.first != Key{}) family.push_back({Key{}, before(parsed->range.first)});
    if (parsed->range.last != last) family.push_back({after(parsed->range.last), last});
    if (parsed->v6)
      out.v4_.push_back({Key{}, kLastV4});
    else
      out.v6_.push_back({Key{}, kLastV6});
  }
  normalize(out.v4_, kLastV4);
  normalize(out.v6_, kLastV6);
  return out;
}

bool IpMatcher::matches(const IpAddress& ip) const {
  return inside(ip.v6 ? v6_ : v4_, key_of(ip), &Range::first, &Range::last);
}

PortMatcher::PortMatcher(std::span<const PortRange> ranges) {
  std::vector<PortRange> sorted;
  std::ranges::copy_if(ranges, std::back_inserter(sorted), [](const PortRange& r) { return r.from <= r.to; });
  std::ranges::sort(sorted, {}, &PortRange::from);
  for (const PortRange& range : sorted) {
    if (!ranges_.empty() && range.from <= ranges_.back().to + 1)
      ranges_.back().to = std::max(ranges_.back().to, range.to);
    else
      ranges_.push_back(range);
  }
}

bool PortMatcher::matches(std::uint16_t port) const { return inside(ranges_, port, &PortRange::from, &PortRange::to); }

Result<UserMatcher> UserMatcher::compile(std::span<const std::string> users) {
  UserMatcher out;
  for (std::size_t i = 0; i < users.size(); ++i) {
    if (!users[i].starts_with(kRegexpPrefix)) {
      if (!users[i].empty()) out.users_.insert(users[i]);
      continue;
    }
    auto compiled = Regexp::compile(std::string_view(users[i]).substr(kRegexpPrefix.size()));
    if (!compiled) return std::unexpected{std::move(compiled.error()).in(index_text(i))};
    out.regexps_.push_back(std::move(*compiled));
  }
  return out;
}

bool UserMatcher::matches(std::string_view user) const {
  if (user.empty()) return false;
  if (users_.contains(user)) return true;
  return std::ranges::any_of(regexps_, [&](const Regexp& regexp) { return regexp.found_in(user); });
}

bool UserMatcher::matches_any(const UserSet& users) const {
  if (std::ranges::any_of(users_, [&](const std::string& user) { return users.contains(user); })) return true;
  return !regexps_.empty() && std::ranges::any_of(users, [&](std::string_view user) { return matches(user); });
}

}  // namespace ebb::routing
