#include "common/protocol/proxy_protocol/header.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/support/vectors.h"

namespace ebb::proxy_protocol {
namespace {

using test::Json;
using test::load_vectors;
Bytes unhex(std::string_view hex) { return *from_hex(hex); }

Json cases() { return load_vectors("proxy_protocol/headers.json")["cases"]; }

Endpoint endpoint(std::string_view text) {
  const auto colon = text.rfind(':');
  const auto host = parse_host(text.substr(0, colon));
  return {std::get<IpAddress>(host), static_cast<std::uint16_t>(std::stoul(std::string(text.substr(colon + 1))))};
}

std::optional<Endpoint> endpoint_in(const Json& object, std::string_view key) {
  if (!object.has(key)) return std::nullopt;
  return endpoint(object[key].text());
}

Bytes v2(std::string_view command_family_length, std::string_view rest = {}) {
  return unhex("0d0a0d0a000d0a515549540a" + std::string(command_family_length) + std::string(rest));
}

Decoded<Step<Header>> line(std::string_view text) { return decode(as_bytes(text)); }

TEST(ProxyProtocol, JudgesHeadersAsWrittenDown) {
  for (const auto& each : cases()) {
    if (each["kind"].text() != "parse") continue;
    SCOPED_TRACE(each["id"].text());
    const auto bytes = each["bytes"].hex();
    const auto& expected = each["expect"];
    const auto& verdict = expected["verdict"].text();
    const auto step = decode(bytes);
    if (verdict == "accept") {
      ASSERT_TRUE(step && step->message);
      EXPECT_EQ(step->message->visitor.source, endpoint_in(expected, "source"));
      EXPECT_EQ(step->message->visitor.local, endpoint_in(expected, "destination"));
      EXPECT_EQ(to_hex(ConstSpan(bytes).subspan(step->used)), expected["payload"].text());
    } else if (verdict == "need_more") {
      EXPECT_TRUE(step && !step->message && step->used == 0);
    } else {  // "reject-or-accept" is a leading zero in a port: V2Ray takes it, the text forbids it, nobody sends it
      EXPECT_FALSE(step);
    }
  }
}

TEST(ProxyProtocol, AsksForMoreAtEveryPrefix) {
  for (const auto& each : cases()) {
    if (each["kind"].text() != "parse" || each["expect"]["verdict"].text() != "accept") continue;
    const auto bytes = each["bytes"].hex();
    const auto whole = decode(bytes);
    ASSERT_TRUE(whole && whole->message);
    for (std::size_t cut = 0; cut < whole->used; ++cut) {
      const auto step = decode(ConstSpan(bytes).first(cut));
      ASSERT_TRUE(step && !step->message && step->used == 0) << each["id"].text() << " cut at " << cut;
    }
  }
}

TEST(ProxyProtocol, RefusesAtTheFirstWrongByte) {
  EXPECT_EQ(line("G").error(), (WireError{WireFault::bad_command, 0}));
  EXPECT_EQ(line("PROXZ").error(), (WireError{WireFault::bad_command, 4}));
  EXPECT_EQ(decode(unhex("0d0a0d0b")).error(), (WireError{WireFault::bad_command, 3}));
  EXPECT_EQ(decode(v2("31")).error(), (WireError{WireFault::bad_command, 12}));
  EXPECT_EQ(decode(v2("22")).error(), (WireError{WireFault::bad_command, 12}));
  EXPECT_EQ(decode(v2("2113")).error(), (WireError{WireFault::bad_command, 13}));
  EXPECT_EQ(decode(v2("2141")).error(), (WireError{WireFault::bad_command, 13}));
  EXPECT_EQ(decode(v2("2111000b")).error(), (WireError{WireFault::bad_length, 14}));
  EXPECT_EQ(decode(v2("21210023")).error(), (WireError{WireFault::bad_length, 14}));
  EXPECT_EQ(decode(v2("213100d7")).error(), (WireError{WireFault::bad_length, 14}));
}

TEST(ProxyProtocol, RefusesLinesThatAreNotExact) {
  for (const char* bad : {
           "PROXY \r\n",
           "PROXY TCP4\r\n",
           "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
           "PROXY UNKNOWNS\r\n",
           "PROXY unknown\r\n",
           "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
           "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
           "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
           "PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n",
           "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
           "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
           "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
           "PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
           "PROXY TCP4 ::ffff:1.2.3.4 1.2.3.4 1 2\r\n",
           "PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
           "PROXY TCP6 [::1] ::1 1 2\r\n",
           "PROXY\tTCP4 1.2.3.4 1.2.3.4 1 2\r\n",
       }) {
    EXPECT_FALSE(line(bad)) << bad;
  }
}

TEST(ProxyProtocol, KeepsItsBounds) {
  const std::string longest = "PROXY UNKNOWN " + std::string(kMaxLine - 16, 'x') + "\r\n";
  ASSERT_EQ(longest.size(), kMaxLine);
  EXPECT_TRUE(line(longest) && line(longest)->message);
  const std::string longer = "PROXY UNKNOWN " + std::string(kMaxLine - 15, 'x') + "\r\n";
  EXPECT_EQ(line(longer).error(), (WireError{WireFault::bad_length, kMaxLine}));
  auto most = v2("21000ff0");
  most.resize(kMaxHeader);
  ASSERT_TRUE(decode(most) && decode(most)->message);
  EXPECT_EQ(decode(most)->used, kMaxHeader);
  EXPECT_EQ(decode(v2("21000ff1")).error(), (WireError{WireFault::bad_length, 14}));
  EXPECT_EQ(decode(v2("2000ffff")).error(), (WireError{WireFault::bad_length, 14}));
}

TEST(ProxyProtocol, TakesALocalHeaderWhateverItSays) {
  const auto step = decode(v2("20990003", "aabbcc"));
  ASSERT_TRUE(step && step->message);
  EXPECT_EQ(step->message->visitor, VisitorAddress{});
  EXPECT_EQ(step->used, 19U);
}

TEST(ProxyProtocol, FoldsMappedAddresses) {
  const auto step = line("PROXY TCP6 ::ffff:203.0.113.7 2001:db8::1 1 2\r\n");
  ASSERT_TRUE(step && step->message);
  EXPECT_EQ(step->message->visitor.source, endpoint("203.0.113.7:1"));
}

TEST(ProxyProtocol, WritesWhatOthersWrite) {
  for (const auto& each : cases()) {
    if (each["kind"].text() != "write") continue;
    SCOPED_TRACE(each["id"].text());
    const auto version = each["version"].number() == 1 ? Version::v1 : Version::v2;
    const VisitorAddress visitor{endpoint_in(each, "source"), endpoint_in(each, "destination")};
    EXPECT_EQ(to_hex(encoded(version, Network::tcp, visitor)), each["bytes"].text());
  }
}

TEST(ProxyProtocol, WritesMixedFamiliesAsIpv6) {
  const VisitorAddress mixed{endpoint("203.0.113.7:1"), endpoint("[2001:db8::1]:2")};
  const auto text = encoded(Version::v1, Network::tcp, mixed);
  EXPECT_EQ(as_text(text), "PROXY TCP6 ::ffff:203.0.113.7 2001:db8::1 1 2\r\n");
  const auto binary = encoded(Version::v2, Network::tcp, mixed);
  EXPECT_EQ(to_hex(binary),
            "0d0a0d0a000d0a515549540a2121002400000000000000000000ffffcb00710720010db800000000000000000000000100010002");
  EXPECT_EQ(decode(text)->message->visitor, mixed);
  EXPECT_EQ(decode(binary)->message->visitor, mixed);
}

TEST(ProxyProtocol, WritesAnUnknownArrivalAsZero) {
  const auto v4 = encoded(Version::v1, Network::tcp, {endpoint("203.0.113.7:1"), std::nullopt});
  EXPECT_EQ(as_text(v4), "PROXY TCP4 203.0.113.7 0.0.0.0 1 0\r\n");
  const auto v6 = encoded(Version::v1, Network::tcp, {endpoint("[2001:db8::7]:1"), std::nullopt});
  EXPECT_EQ(as_text(v6), "PROXY TCP6 2001:db8::7 :: 1 0\r\n");
}

TEST(ProxyProtocol, WritesDatagramsInVersion2Only) {
  const VisitorAddress visitor{endpoint("203.0.113.7:51234"), endpoint("198.51.100.1:443")};
  EXPECT_EQ(to_hex(encoded(Version::v2, Network::udp, visitor)),
            "0d0a0d0a000d0a515549540a2112000ccb007107c6336401c82201bb");
  EXPECT_EQ(decode(encoded(Version::v2, Network::udp, visitor))->message->network, Network::udp);
  EXPECT_TRUE(encoded(Version::v1, Network::udp, visitor).empty());
  EXPECT_TRUE(encoded(Version::none, Network::tcp, visitor).empty());
}

TEST(ProxyProtocol, NeverWritesMoreThanItSays) {
  const Endpoint longest = endpoint("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535");
  const auto text = encoded(Version::v1, Network::tcp, {longest, longest});
  EXPECT_LE(text.size(), kMaxWritten);
  EXPECT_EQ(decode(text)->message->visitor, (VisitorAddress{longest, longest}));
  EXPECT_EQ(encoded(Version::v2, Network::udp, {longest, longest}).size(), 52U);
}

}  // namespace
}  // namespace ebb::proxy_protocol
