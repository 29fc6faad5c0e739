// The first line is a pattern, the rest a subject. A pattern that passes its check must compile, in a matcher and in a
// router, and the router's index must agree with a plain look at the rule.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/bytes.h"
#include "common/routing/matcher.h"
#include "common/routing/router.h"

namespace {

using namespace ebb::routing;

constexpr std::size_t kMaxPattern = 48;  // longer ones only make RE2 slow to compile

void require(bool holds) {
  if (!holds) std::abort();
}

void try_rule(Rule rule, bool usable, const Subject& subject) {
  rule.outbound_tag = "b";
  const auto router = Router::compile({std::move(rule)}, {{"a", "b"}, {}});
  require(router.has_value() == usable);
  if (!router) return;
  const bool matched = router->decide(subject).index == 1;
  require(matched == (router->failing_condition(0, subject) == Condition::none));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input = ebb::as_text({data, size});
  const auto line = input.find('\n');
  const std::string_view pattern = input.substr(0, line);
  if (pattern.size() > kMaxPattern) return 0;
  const std::string rest(line == input.npos ? std::string_view() : input.substr(line + 1));

  const ebb::Target target{ebb::Network::tcp, ebb::parse_host(rest), 80};
  const ebb::Endpoint source{target.ip() != nullptr ? *target.ip() : ebb::IpAddress{}, 1};
  const Subject subject{"in", &target, &source, rest};
  const std::vector<std::string> list{std::string(pattern)};

  const auto domain = DomainMatcher::compile(list);
  require(domain.has_value() == check_domain_pattern(pattern).has_value());
  if (domain) domain->matches(to_lower(rest));
  try_rule({.domains = list}, domain.has_value(), subject);

  const auto ip = IpMatcher::compile(list);
  require(ip.has_value() == check_ip_pattern(pattern).has_value());
  if (ip && target.ip() != nullptr) {  // an inverted pattern is the opposite of the pattern
    const auto inverted = IpMatcher::compile(std::vector<std::string>{"!" + list[0]});
    require(inverted && inverted->matches(*target.ip()) != ip->matches(*target.ip()));
  }
  try_rule({.ips = list}, ip.has_value(), subject);
  try_rule({.sources = list}, ip.has_value(), subject);
  try_rule({.users = list}, check_user_pattern(pattern).has_value(), subject);
  return 0;
}
