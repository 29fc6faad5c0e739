#include "common/base/address.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

namespace ebb {
namespace {

TEST(IpAddress, FoldsMappedIpv6IntoIpv4) {
  const auto ip = IpAddress::parse("::ffff:10.0.0.1");
  ASSERT_TRUE(ip);
  EXPECT_FALSE(ip->v6);
  EXPECT_EQ(ip->text(), "10.0.0.1");
}

TEST(IpAddress, RefusesWhatIsNotALiteral) {
  for (const char* text :
       {"", "1.2.3", "1.2.3.4.5", "256.1.1.1", "010.0.0.1", "1.2.3.4 ", "[::1]", "::1%lo", "1:2", "0x7f.1"})
    EXPECT_FALSE(IpAddress::parse(text)) << text;
  EXPECT_FALSE(IpAddress::parse(std::string(46, ':')));
  EXPECT_FALSE(IpAddress::parse(std::string_view("127.0.0.1\0.evil.test", 20)));
}

TEST(IpAddress, KnowsLoopback) {
  for (const char* text : {"127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1"})
    EXPECT_TRUE(IpAddress::parse(text)->loopback()) << text;
  for (const char* text : {"128.0.0.1", "::", "::2", "fe80::1"})
    EXPECT_FALSE(IpAddress::parse(text)->loopback()) << text;
}

TEST(Endpoint, RefusesOtherFamilies) {
  sockaddr_storage storage{};
  storage.ss_family = AF_UNIX;
  EXPECT_FALSE(endpoint_from(reinterpret_cast<sockaddr*>(&storage)));
}

TEST(ParseHost, RemovesBracketsAndKeepsNames) {
  EXPECT_EQ(host_text(parse_host("[1.2.3.4]")), "[1.2.3.4]");
  EXPECT_EQ(host_text(parse_host("")), "");
  EXPECT_EQ(host_text(parse_host("x.test.")), "x.test.");
  EXPECT_EQ(host_text(parse_host("[::1]")), "::1");
  EXPECT_TRUE(std::holds_alternative<std::string>(parse_host("portal of mine")));
  EXPECT_EQ(host_text(parse_host(" 127.0.0.1 ")), "127.0.0.1");
}

TEST(Target, PrintsAsTheAccessLogDoes) {
  EXPECT_EQ((Target{Network::tcp, parse_host("::1"), 80}).text(), "tcp:[::1]:80");
  EXPECT_EQ((Target{Network::udp, Host{std::string("x.test")}, 0}).text(), "udp:x.test:0");
}

TEST(IpAddress, IsWrittenAsIpv6) {
  for (const char* text : {"203.0.113.7", "2001:db8::1"}) {
    const auto ip = *IpAddress::parse(text);
    EXPECT_EQ(IpAddress::from_v6(ip.as_v6()), ip);
  }
  EXPECT_EQ(IpAddress::parse("192.0.2.1")->as_v6(),
            (std::array<std::uint8_t, 16>{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1}));
}

TEST(Endpoint, SurvivesTheKernelsForm) {
  for (const char* text : {"127.0.0.2", "2001:db8::1"}) {
    const Endpoint in{*IpAddress::parse(text), 4711};
    sockaddr_storage storage;
    endpoint_to(in, storage);
    EXPECT_EQ(endpoint_from(reinterpret_cast<sockaddr*>(&storage)), in);
  }
}

}  // namespace
}  // namespace ebb
