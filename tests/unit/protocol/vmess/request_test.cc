#include "common/protocol/vmess/request.h"

#include <gtest/gtest.h>

#include "common/crypto/aes.h"
#include "common/crypto/cfb.h"
#include "common/protocol/address.h"
#include "tests/unit/protocol/vmess/vector_support.h"

namespace ebb::vmess {
namespace {

RequestHeader header_of(const test::Json& fields, bool legacy) {
  RequestHeader header;
  header.keys.request_iv = array_of(fields["body_iv"]);
  header.keys.request_key = array_of(fields["body_key"]);
  header.keys.response_auth = static_cast<std::uint8_t>(fields["response_auth"].number());
  header.keys.options = static_cast<std::uint8_t>(fields["option"].number());
  header.keys.security = Security{static_cast<std::uint8_t>(fields["security"].number())};
  header.keys.command = Command{static_cast<std::uint8_t>(fields["command"].number())};
  header.keys.legacy = legacy;
  derive_response_keys(header.keys);
  if (header.keys.command == Command::mux) {
    header.target = Target{Network::tcp, std::string("v1.mux.cool"), 0};
  } else {
    header.target.network = header.keys.command == Command::udp ? Network::udp : Network::tcp;
    header.target.host = parse_host(fields["address"].text());
    header.target.port = static_cast<std::uint16_t>(fields["port"].number());
  }
  return header;
}

void check_plaintext(const test::Json& entry, bool legacy) {
  const RequestHeader header = header_of(entry["fields"], legacy);
  Bytes plain(kMaxRequestPlain);
  const auto size = encode_request(header, entry["fields"]["padding"].hex(), plain);
  ASSERT_TRUE(size);
  plain.resize(*size);
  ASSERT_EQ(to_hex(plain), entry["plaintext"].text());
  const auto parsed = parse_request(plain, legacy);
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->keys, header.keys);
  EXPECT_EQ(parsed->target, header.target);
  for (std::size_t cut = 0; cut < plain.size(); ++cut) {
    const ConstSpan prefix = ConstSpan(plain).first(cut);
    EXPECT_GT(request_bytes_needed(prefix), cut);
    EXPECT_LE(request_bytes_needed(prefix), plain.size());
    EXPECT_EQ(parse_request(prefix, legacy).error().fault, WireFault::truncated);
  }
  plain.push_back(0);
  EXPECT_EQ(request_bytes_needed(plain), *size);
}

TEST(RequestHeader, AeadBitForBit) {
  for (const auto& entry : test::load_vectors("vmess/request_header_aead.json")["vectors"]) {
    SCOPED_TRACE(entry["name"].text());
    check_plaintext(entry, false);
    const Block16 cmd_key = command_key(user_id(entry));
    EXPECT_EQ(to_hex(cmd_key), entry["cmd_key"].text());
    crypto::AesBlock aes(auth_id_key(cmd_key), crypto::AesBlock::Use::encrypt);
    const Block16 auth_id = aes.apply(auth_id_plain(entry["time"].number(), array_of<4>(entry["authid_random4"])));
    EXPECT_EQ(to_hex(auth_id), entry["auth_id"].text());
    const Bytes plain = entry["plaintext"].hex();
    Bytes wire(kAeadHeadBytes + plain.size() + 16);
    EXPECT_EQ(seal_request(cmd_key, auth_id, array_of<8>(entry["nonce8"]), plain, wire), wire.size());
    EXPECT_EQ(to_hex(wire), entry["sealed"].text());

    const Bytes head(wire.begin(), wire.begin() + kAeadHeadBytes);
    const auto length = open_request_length(cmd_key, head);
    ASSERT_TRUE(length);
    EXPECT_EQ(*length, plain.size());
    const auto opened = open_request(cmd_key, head, MutSpan(wire).subspan(kAeadHeadBytes));
    ASSERT_TRUE(opened);
    EXPECT_EQ(to_hex(*opened), entry["plaintext"].text());
  }
}

TEST(RequestHeader, LegacyBitForBit) {
  for (const auto& entry : test::load_vectors("vmess/request_header_legacy.json")["vectors"]) {
    SCOPED_TRACE(entry["name"].text());
    check_plaintext(entry, true);
    const User user{user_id(entry), static_cast<std::uint16_t>(entry["alter_id"].number())};
    const auto ids = all_ids(user);
    const std::string& used = entry["id_used"].text();
    const std::size_t index = used.starts_with("alter[") ? 1 + static_cast<std::size_t>(used[6] - '0') : 0;
    const UnixSeconds time = entry["time"].number();
    EXPECT_EQ(to_hex(legacy_auth(ids.at(index), time)), entry["auth"].text());
    EXPECT_EQ(to_hex(legacy_header_iv(time)), entry["cfb_iv"].text());
    const Bytes plain = entry["plaintext"].hex();
    Bytes wire(16 + plain.size());
    EXPECT_EQ(seal_legacy_request(command_key(user.id), ids[index], time, plain, wire), wire.size());
    EXPECT_EQ(to_hex(wire), entry["wire"].text());
  }
}

Bytes plain_of(RequestHeader header) {
  Bytes plain(kMaxRequestPlain);
  plain.resize(encode_request(header, {}, plain).value());
  return plain;
}

void fix_checksum(Bytes& plain) {
  store_be32(MutSpan(plain).last(4), crypto::fnv1a(ConstSpan(plain).first(plain.size() - 4)));
}

TEST(RequestHeader, DecidesInTheOrderOfStockServers) {
  RequestHeader header;
  header.target = Target{Network::tcp, std::string("a.example"), 80};
  const auto fault_after = [&](auto change, bool checksum = true) {
    Bytes plain = plain_of(header);
    change(plain);
    if (checksum) fix_checksum(plain);
    const auto parsed = parse_request(plain, false);
    EXPECT_FALSE(parsed);
    return parsed ? WireFault::truncated : parsed.error().fault;
  };
  EXPECT_EQ(fault_after([](Bytes& p) { p[44] = ' '; }), WireFault::bad_address);
  EXPECT_EQ(fault_after([](Bytes& p) { p[44] = ' '; }, false), WireFault::bad_tag);
  EXPECT_EQ(fault_after([](Bytes& p) { p[35] = 2; }), WireFault::bad_option);
  EXPECT_EQ(fault_after([](Bytes& p) { p[35] = 6; }), WireFault::bad_option);
  EXPECT_EQ(fault_after([](Bytes& p) { p[34] = 0x09; }), WireFault::bad_option);
  EXPECT_EQ(fault_after([](Bytes& p) {
              p[34] = 0x09;
              p[44] = ' ';
            }),
            WireFault::bad_address);
  for (const int command : {0, 4, 255}) {
    Bytes plain = plain_of(header);
    plain[37] = static_cast<std::uint8_t>(command);
    plain.resize(42);
    fix_checksum(plain);
    EXPECT_EQ(parse_request(plain, false).error().fault, WireFault::bad_command);
  }
  Bytes zero = plain_of(header);
  zero[35] = 0;
  fix_checksum(zero);
  EXPECT_EQ(parse_request(zero, false)->keys.security, Security::cfb);
}

TEST(RequestHeader, NeverWritesANameThatDoesNotFit) {
  RequestHeader header;
  Bytes plain(kMaxRequestPlain);
  for (const std::size_t length : {std::size_t{0}, std::size_t{256}}) {
    header.target.host = std::string(length, 'a');
    EXPECT_EQ(encode_request(header, {}, plain).error().fault, WireFault::bad_address);
  }
  header.target.host = std::string(255, 'a');
  EXPECT_EQ(encode_request(header, Bytes(15), plain).value(), kMaxRequestPlain);
}

}  // namespace
}  // namespace ebb::vmess
