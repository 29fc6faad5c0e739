#include <gtest/gtest.h>

#include "ipc/state_blob.h"

namespace ebb::ipc {
namespace {

constexpr Tlv kStream = layer_tlv(3), kSmall = layer_tlv(5), kFrames = layer_tlv(6);

TEST(StateBlob, RoundTrips) {
  BlobWriter writer;
  const Bytes cipher(17 * 1024, 1), plain(16 * 1024, 2), vmess(160, 3);
  EXPECT_TRUE(writer.add(Tlv::unread_cipher, cipher));
  EXPECT_TRUE(writer.add(Tlv::unread_plain, plain));
  EXPECT_TRUE(writer.add(kStream, vmess));
  EXPECT_TRUE(writer.add(kFrames, {}));
  EXPECT_FALSE(writer.add(kStream, vmess));  // twice
  EXPECT_FALSE(writer.add(kSmall, Bytes(17)));
  EXPECT_FALSE(writer.add(Tlv(0), {}));
  EXPECT_FALSE(writer.add(Tlv(9), {}));
  const Bytes bytes = writer.take();
  const auto blob = decode_blob(bytes);
  ASSERT_TRUE(blob);
  EXPECT_TRUE(std::ranges::equal(*blob->get(Tlv::unread_cipher), cipher));
  EXPECT_TRUE(std::ranges::equal(*blob->get(Tlv::unread_plain), plain));
  EXPECT_TRUE(std::ranges::equal(*blob->get(kStream), vmess));
  EXPECT_TRUE(blob->get(kFrames)->empty());
  EXPECT_FALSE(blob->get(Tlv::meta));
}

TEST(StateBlob, EveryBoundFitsTogether) {
  BlobWriter writer;
  for (std::uint16_t t = 1; t <= kTlvTypes; ++t) EXPECT_TRUE(writer.add(Tlv(t), Bytes(max_tlv_bytes(Tlv(t)))));
  const Bytes bytes = writer.take();
  EXPECT_LE(bytes.size(), kMaxBlob);
  EXPECT_TRUE(decode_blob(bytes));
  EXPECT_TRUE(decode_blob({}));
}

TEST(StateBlob, RefusesEveryCut) {
  BlobWriter writer;
  ASSERT_TRUE(writer.add(kStream, Bytes(20)));
  const Bytes bytes = writer.take();
  for (std::size_t n = 1; n < bytes.size(); ++n) {
    const auto blob = decode_blob(ConstSpan(bytes).first(n));
    ASSERT_FALSE(blob);
    EXPECT_EQ(blob.error().fault, WireFault::truncated);
  }
}

TEST(StateBlob, RefusesWhatIsMalformed) {
  const auto fault = [](std::uint16_t type, std::uint16_t reserved, std::uint32_t length, std::size_t have,
                        int times = 1) {
    Bytes bytes;
    for (int i = 0; i < times; ++i) {
      const auto put = [&](auto value) {
        const auto* p = reinterpret_cast<const std::uint8_t*>(&value);
        bytes.insert(bytes.end(), p, p + sizeof value);
      };
      put(type);
      put(reserved);
      put(length);
      bytes.resize(bytes.size() + have);
    }
    return decode_blob(bytes).error().fault;
  };
  EXPECT_EQ(fault(0, 0, 0, 0), WireFault::bad_command);
  EXPECT_EQ(fault(9, 0, 0, 0), WireFault::bad_command);
  EXPECT_EQ(fault(1, 1, 0, 0), WireFault::bad_option);
  EXPECT_EQ(fault(5, 0, 17, 17), WireFault::bad_length);
  EXPECT_EQ(fault(5, 0, 0xFFFFFFFF, 0), WireFault::bad_length);
  EXPECT_EQ(fault(5, 0, 4, 4, 2), WireFault::bad_option);  // the same type twice
  EXPECT_EQ(decode_blob(Bytes(kMaxBlob + 1)).error().fault, WireFault::bad_length);
}

TEST(StateBlob, MetaRoundTrips) {
  Meta meta;
  EXPECT_EQ(encode_meta(meta)->size(), 0u);
  EXPECT_EQ(decode_meta({}), meta);
  meta.target = Target{Network::udp, Host(std::string("example.org")), 53};
  meta.user = "love@example.org";
  meta.sni = "sni";
  meta.alpn = "h2";
  meta.host = "host";
  meta.path = "/path";
  meta.source = Endpoint{*IpAddress::parse("2001:db8::1"), 4711};
  auto bytes = encode_meta(meta);
  ASSERT_TRUE(bytes);
  EXPECT_EQ(decode_meta(*bytes), meta);
  for (const char* ip : {"192.0.2.7", "2001:db8::2"}) {
    meta.target = Target{Network::tcp, Host(*IpAddress::parse(ip)), 0};
    EXPECT_EQ(decode_meta(*encode_meta(meta)), meta);
  }
  bytes = encode_meta(meta);
  for (std::size_t n = 0; n < bytes->size(); ++n) {
    const auto cut = decode_meta(ConstSpan(*bytes).first(n));  // whole fields are a Meta of their own
    EXPECT_FALSE(cut && *cut == meta);
  }
  meta.path = std::string(1024, 'x');
  EXPECT_FALSE(encode_meta(meta));
  meta.path = std::string(70'000, 'x');
  EXPECT_FALSE(encode_meta(meta));
}

TEST(StateBlob, MetaRefusesWhatIsMalformed) {
  const auto fault = [](Bytes bytes) { return decode_meta(bytes).error().fault; };
  EXPECT_EQ(fault({1}), WireFault::truncated);
  EXPECT_EQ(fault({2, 0, 4, 0, 'a'}), WireFault::truncated);
  EXPECT_EQ(fault({0, 0, 0, 0}), WireFault::bad_command);
  EXPECT_EQ(fault({8, 0, 0, 0}), WireFault::bad_command);
  EXPECT_EQ(fault({2, 1, 0, 0}), WireFault::bad_option);
  EXPECT_EQ(fault({2, 0, 0, 0, 2, 0, 0, 0}), WireFault::bad_option);
  EXPECT_EQ(fault({1, 0, 1, 0, 1}), WireFault::bad_length);
  EXPECT_EQ(fault({1, 0, 5, 0, 3, 0, 80, 0, 0}), WireFault::bad_command);     // network 3
  EXPECT_EQ(fault({1, 0, 6, 0, 1, 0, 80, 0, 4, 1}), WireFault::bad_address);  // a short IPv4
  EXPECT_EQ(fault({7, 0, 4, 0, 1, 0, 0, 'a'}), WireFault::bad_address);       // a name as source
  EXPECT_EQ(fault(Bytes(1025)), WireFault::bad_length);
}

}  // namespace
}  // namespace ebb::ipc
