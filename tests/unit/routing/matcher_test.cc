#include "common/routing/matcher.h"

#include <gtest/gtest.h>

namespace ebb::routing {
namespace {

std::string problem(const Result<>& result) { return result ? "" : result.error().what; }

bool name_matches(std::vector<std::string> patterns, std::string_view name) {
  return DomainMatcher::compile(patterns).value().matches(name);
}
bool ip_matches(std::vector<std::string> patterns, std::string_view ip) {
  return IpMatcher::compile(patterns).value().matches(*IpAddress::parse(ip));
}

TEST(DomainPattern, SaysWhatRe2Lacks) {
  const std::string prefix = "regular expression is not RE2: ";
  EXPECT_EQ(problem(check_domain_pattern("regexp:^(?!www).*$")), prefix + "look-ahead \"(?!\" is not supported");
  EXPECT_EQ(problem(check_domain_pattern("regexp:(?=x)")), prefix + "look-ahead \"(?=\" is not supported");
  EXPECT_EQ(problem(check_domain_pattern("regexp:(?<=a)b")), prefix + "look-behind \"(?<=\" is not supported");
  EXPECT_EQ(problem(check_domain_pattern("regexp:(?<!a)b")), prefix + "look-behind \"(?<!\" is not supported");
  EXPECT_EQ(problem(check_domain_pattern("regexp:(a)\\1")), prefix + "back-reference \"\\1\" is not supported");
  EXPECT_EQ(problem(check_domain_pattern("regexp:(a")), prefix + "missing ): (a");
  EXPECT_EQ(problem(check_domain_pattern("regexp:a{1001}")), prefix + "invalid repetition size: {1001}");
}

TEST(DomainPattern, AcceptsWhatGoAccepts) {
  for (const char* re :
       {"(?i)^SHOP", "(?s).", "(?P<name>a)", "\\d\\w\\s\\b", "\\pL{1,1000}", "a+?", "[a-z]{1,1000}", "[[:alpha:]]"})
    EXPECT_EQ(problem(check_domain_pattern(std::string("regexp:") + re)), "") << re;
}

TEST(DomainPattern, RefusesWhatIsNotBuiltByName) {
  for (const char* pattern : {"geosite:cn", "ext:custom.dat:team", "ext-domain:f:l", "ext-site:f:l"}) {
    EXPECT_EQ(problem(check_domain_pattern(pattern)),
              "\"" + std::string(pattern) + "\" needs a geo file; geo files are not supported yet");
    EXPECT_TRUE(uses_geo_file(pattern));
  }
  EXPECT_NE(problem(check_domain_pattern("dotless:a.b")), "");
  EXPECT_FALSE(uses_geo_file("domain:geoip.test"));
}

TEST(DomainMatcher, LowersPatternsButNotExpressions) {
  EXPECT_TRUE(name_matches({"full:X.Test"}, "x.test"));
  EXPECT_TRUE(name_matches({"DOMAIN:x"}, "domain:x"));  // prefixes are words of the format: this one is a substring
  EXPECT_TRUE(name_matches({"dotless:NAS"}, "mynas1"));
  EXPECT_FALSE(name_matches({"regexp:^NAS$"}, "nas"));  // the expression keeps its case and sees a lower-cased name
  EXPECT_TRUE(name_matches({"regexp:(?i)^NAS$"}, "nas"));
}

TEST(DomainMatcher, KnowsLabelBoundaries) {
  const std::vector<std::string> list{"domain:x.test", "full:only.test"};
  EXPECT_TRUE(name_matches(list, "x.test"));
  EXPECT_TRUE(name_matches(list, "a.b.x.test"));
  EXPECT_FALSE(name_matches(list, "evilx.test"));
  EXPECT_FALSE(name_matches(list, "x.test."));
  EXPECT_FALSE(name_matches(list, "sub.only.test"));
  EXPECT_FALSE(name_matches(list, ""));
  EXPECT_FALSE(name_matches({}, "x.test"));
  EXPECT_TRUE(name_matches({""}, ""));
}

TEST(DomainMatcher, SurvivesHostileNames) {
  const std::vector<std::string> list{"domain:a", "regexp:^(a+)+$", "keyword:zz"};
  EXPECT_FALSE(name_matches(list, std::string(4096, '.')));
  EXPECT_FALSE(name_matches(list, "!" + std::string(4096, 'a')));
  EXPECT_FALSE(name_matches(list, std::string("\0\xff\xfe", 3)));
}

TEST(IpPattern, SaysWhatIsWrong) {
  EXPECT_EQ(problem(check_ip_pattern("nas.lan")), "\"nas.lan\" is not an IP address or CIDR");
  EXPECT_EQ(problem(check_ip_pattern("10.0.0.0/33")), "prefix length 33 is greater than 32");
  EXPECT_EQ(problem(check_ip_pattern("::1/129")), "prefix length 129 is greater than 128");
  EXPECT_EQ(problem(check_ip_pattern("::ffff:10.0.0.1/104")), "prefix length 104 is greater than 32");
  EXPECT_EQ(problem(check_ip_pattern("1.1.1.1/99999999999999999999")),
            "prefix length 99999999999999999999 is greater than 32");
  for (const char* bad : {"", "!", "10.0.0.0/", "10.0.0.0/x", "10.0.0.0/-1", "10.0.0/8", "/8", "10.0.0.0/8/8"})
    EXPECT_EQ(problem(check_ip_pattern(bad)), "\"" + std::string(bad) + "\" is not an IP address or CIDR");
  for (const char* geo : {"geoip:cn", "geoip:!cn", "!geoip:cn", "ext:f:c", "ext-ip:f:c"})
    EXPECT_NE(problem(check_ip_pattern(geo)).find("geo files"), std::string::npos) << geo;
}

TEST(IpMatcher, MasksHostBitsAtEveryPrefixLength) {
  for (unsigned prefix = 0; prefix <= 32; ++prefix) {
    const std::string network = "255.255.255.255/" + std::to_string(prefix);
    const std::uint32_t mask = prefix == 0 ? 0 : ~std::uint32_t{0} << (32 - prefix);
    std::array<std::uint8_t, 4> octets;
    store_be32(octets, mask);
    EXPECT_TRUE(ip_matches({network}, IpAddress::from_v4(octets).text())) << network;
    store_be32(octets, mask - 1);
    if (prefix == 0) continue;
    EXPECT_FALSE(ip_matches({network}, IpAddress::from_v4(octets).text())) << network;
  }
  EXPECT_TRUE(ip_matches({"2001:db8:ffff::1/32"}, "2001:db8::"));
  EXPECT_TRUE(ip_matches({"2001:db8::/64"}, "2001:db8::ffff:ffff:ffff:ffff"));
  EXPECT_FALSE(ip_matches({"2001:db8::/65"}, "2001:db8::8000:0:0:0"));
  EXPECT_FALSE(ip_matches({"2001:db8::/64"}, "2001:db8:0:1::"));
  EXPECT_TRUE(ip_matches({"::1"}, "::1"));
  EXPECT_FALSE(ip_matches({"::1"}, "::2"));
}

TEST(IpMatcher, KeepsFamiliesApart) {
  EXPECT_FALSE(ip_matches({"0.0.0.0/0"}, "::1"));
  EXPECT_FALSE(ip_matches({"::/0"}, "10.0.0.1"));
  EXPECT_TRUE(ip_matches({"::/0"}, "ff02::1"));
  EXPECT_TRUE(ip_matches({"::ffff:10.0.0.1"}, "10.0.0.1"));
  EXPECT_TRUE(ip_matches({"[2001:db8::1]"}, "2001:db8::1"));
}

TEST(IpMatcher, InvertsAndToggles) {
  EXPECT_TRUE(ip_matches({"!10.0.0.0/8"}, "9.255.255.255"));
  EXPECT_FALSE(ip_matches({"!10.0.0.0/8"}, "10.0.0.0"));
  EXPECT_FALSE(ip_matches({"!10.0.0.0/8"}, "10.255.255.255"));
  EXPECT_TRUE(ip_matches({"!10.0.0.0/8"}, "11.0.0.0"));
  EXPECT_TRUE(ip_matches({"!10.0.0.0/8"}, "::1"));  // no address of that family in the entry
  EXPECT_TRUE(ip_matches({"!!10.0.0.0/8"}, "10.1.1.1"));
  EXPECT_FALSE(ip_matches({"!!10.0.0.0/8"}, "::1"));
  EXPECT_FALSE(ip_matches({"!0.0.0.0/0"}, "10.1.1.1"));
  EXPECT_FALSE(ip_matches({"!::/0"}, "::1"));
  EXPECT_TRUE(ip_matches({"!10.0.0.0/8", "10.1.1.1"}, "10.1.1.1"));         // ORed, inverted or not
  EXPECT_TRUE(ip_matches({"!10.0.0.0/8", "!192.168.0.0/16"}, "10.1.1.1"));  // so two of them are everything
}

TEST(IpMatcher, JoinsNeighboursAndOverlaps) {
  const std::vector<std::string> list{"10.0.1.0/24",     "10.0.0.0/24", "10.0.0.128/25", "10.0.3.0/24",
                                      "255.255.255.255", "ffff::/16",   "ffff:ffff::/32"};
  EXPECT_TRUE(ip_matches(list, "10.0.0.0"));
  EXPECT_TRUE(ip_matches(list, "10.0.1.255"));
  EXPECT_FALSE(ip_matches(list, "10.0.2.0"));
  EXPECT_TRUE(ip_matches(list, "10.0.3.7"));
  EXPECT_FALSE(ip_matches(list, "9.255.255.255"));
  EXPECT_TRUE(ip_matches(list, "255.255.255.255"));
  EXPECT_TRUE(ip_matches(list, "ffff:1::"));
}

TEST(PortMatcher, IsInclusiveAndDropsReversedRanges) {
  const PortMatcher ports(std::vector<PortRange>{{2000, 1000}, {80, 80}, {65000, 65535}, {81, 90}, {70, 100}, {0, 0}});
  for (const int port : {0, 70, 80, 90, 100, 65000, 65535})
    EXPECT_TRUE(ports.matches(static_cast<std::uint16_t>(port))) << port;
  for (const int port : {1, 69, 101, 1500, 64999})
    EXPECT_FALSE(ports.matches(static_cast<std::uint16_t>(port))) << port;
  EXPECT_FALSE(PortMatcher({}).matches(0));
}

TEST(UserMatcher, IsExactAndNeverMatchesAnonymous) {
  const auto users = UserMatcher::compile(std::vector<std::string>{"", "Alice@x", "regexp:^bob"}).value();
  EXPECT_TRUE(users.matches("Alice@x"));
  EXPECT_FALSE(users.matches("alice@x"));
  EXPECT_FALSE(users.matches("Alice"));
  EXPECT_TRUE(users.matches("bobby"));
  EXPECT_FALSE(users.matches(""));
  EXPECT_TRUE(users.matches_any({"carol", "Alice@x"}));
  EXPECT_TRUE(users.matches_any({"carol", "bobby"}));
  EXPECT_FALSE(users.matches_any({"carol", "alice@x", ""}));
  EXPECT_FALSE(users.matches_any({}));
  const auto anybody = UserMatcher::compile(std::vector<std::string>{"regexp:"}).value();
  EXPECT_TRUE(anybody.matches_any({"carol"}));
  EXPECT_FALSE(anybody.matches_any({""}));
  EXPECT_NE(problem(check_user_pattern("regexp:(")), "");
  EXPECT_EQ(problem(check_user_pattern("(")), "");
}

TEST(Matchers, NameTheEntryThatFails) {
  EXPECT_EQ(DomainMatcher::compile(std::vector<std::string>{"a", "regexp:("}).error().where, "[1]");
  EXPECT_EQ(DomainMatcher::compile(std::vector<std::string>{"geosite:cn"}).error().where, "[0]");
  EXPECT_EQ(IpMatcher::compile(std::vector<std::string>{"::1", "x"}).error().where, "[1]");
  EXPECT_EQ(UserMatcher::compile(std::vector<std::string>{"regexp:("}).error().where, "[0]");
}

}  // namespace
}  // namespace ebb::routing
