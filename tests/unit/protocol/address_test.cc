#include "common/protocol/address.h"

#include <gtest/gtest.h>

namespace ebb {
namespace {

std::string name_or_ip(std::string_view wire) {
  const auto host = host_from_wire(wire);
  if (!host) return "refused";
  return std::holds_alternative<IpAddress>(*host) ? "ip " + host_text(*host) : "name " + host_text(*host);
}

TEST(HostFromWire, FollowsTheReceiversRules) {
  EXPECT_EQ(name_or_ip("www.v2ray.example"), "name www.v2ray.example");
  EXPECT_EQ(name_or_ip("1.2.3.4"), "ip 1.2.3.4");
  EXPECT_EQ(name_or_ip("[::1]"), "ip ::1");
  EXPECT_EQ(name_or_ip("2001:db8::1"), "ip 2001:db8::1");
  EXPECT_EQ(name_or_ip("[::ffff:1.2.3.4]"), "ip 1.2.3.4");
  EXPECT_EQ(name_or_ip("4chan.example"), "name 4chan.example");
  EXPECT_EQ(name_or_ip("a_b-c.D"), "name a_b-c.D");
  EXPECT_EQ(name_or_ip("::1"), "refused");
  EXPECT_EQ(name_or_ip("fe80::1"), "refused");
  EXPECT_EQ(name_or_ip("[abc"), "refused");
  EXPECT_EQ(name_or_ip("a b"), "refused");
  EXPECT_EQ(name_or_ip("m\xc3\xbcller"), "refused");
  EXPECT_EQ(name_or_ip(""), "refused");
  EXPECT_EQ(name_or_ip(std::string(256, 'a')), "refused");
  EXPECT_EQ(name_or_ip(std::string(255, 'a')), "name " + std::string(255, 'a'));
}

class EveryStyle : public testing::TestWithParam<AddressStyle> {};
INSTANTIATE_TEST_SUITE_P(All, EveryStyle, testing::Values(kPortFirstAddress, kSocksAddress));

TEST_P(EveryStyle, RoundTripsAndAsksForMoreAtEveryPrefix) {
  const Host hosts[] = {IpAddress::from_v4({192, 0, 2, 1}), *IpAddress::parse("2001:db8::7"), std::string("a.example"),
                        std::string(255, 'x')};
  for (const Host& host : hosts) {
    Bytes wire(kMaxAddressBytes);
    wire.resize(encode_address(host, 0x1234, GetParam(), wire));
    ASSERT_FALSE(wire.empty());
    for (std::size_t cut = 0; cut < wire.size(); ++cut) {
      const auto step = decode_address(ConstSpan(wire).first(cut), GetParam());
      ASSERT_TRUE(step && !step->message && step->used == 0) << cut;
      const std::size_t told = address_bytes(ConstSpan(wire).first(cut), GetParam());
      ASSERT_TRUE(told == 0 || told == wire.size());
    }
    const std::size_t size = wire.size();
    wire.push_back(0xEE);
    const auto step = decode_address(wire, GetParam());
    ASSERT_TRUE(step && step->message);
    EXPECT_EQ(step->used, size);
    EXPECT_EQ(*step->message, (WireAddress{host, 0x1234}));
  }
}

TEST_P(EveryStyle, RefusesUnknownTypesAndNamesThatDoNotFit) {
  Bytes out(kMaxAddressBytes);
  EXPECT_EQ(encode_address(std::string(), 1, GetParam(), out), 0u);
  EXPECT_EQ(encode_address(std::string(256, 'a'), 1, GetParam(), out), 0u);
  const Bytes unknown = GetParam().port_first ? Bytes{0, 80, 9, 1, 2, 3, 4} : Bytes{9, 1, 2, 3, 4, 0, 80};
  EXPECT_EQ(decode_address(unknown, GetParam()).error().fault, WireFault::bad_address);
  EXPECT_EQ(address_bytes(unknown, GetParam()), 3u);
}

TEST(Address, MatchesTheWire) {
  Bytes out(kMaxAddressBytes);
  const auto hex = [&](std::size_t n) { return to_hex(ConstSpan(out).first(n)); };
  EXPECT_EQ(hex(encode_address(std::string("tunnel.example"), 0, kPortFirstAddress, out)),
            "0000020e74756e6e656c2e6578616d706c65");
  EXPECT_EQ(hex(encode_address(IpAddress::from_v4({1, 2, 3, 4}), 443, kSocksAddress, out)), "010102030401bb");
}

}  // namespace
}  // namespace ebb
