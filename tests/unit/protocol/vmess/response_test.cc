#include "common/protocol/vmess/response.h"

#include <gtest/gtest.h>

#include "common/protocol/vmess/kdf.h"
#include "tests/unit/protocol/vmess/vector_support.h"

namespace ebb::vmess {
namespace {

TEST(ResponseHeader, EveryVectorAtEveryCut) {
  for (const auto& entry : test::load_vectors("vmess/response_header.json")["vectors"]) {
    SCOPED_TRACE(entry["name"].text());
    const SessionKeys keys = keys_of(entry);
    EXPECT_EQ(to_hex(keys.response_key), entry["resp_key"].text());
    EXPECT_EQ(to_hex(keys.response_iv), entry["resp_iv"].text());
    Bytes wire = entry["wire"].hex();
    for (std::size_t cut = 0; cut < wire.size(); ++cut) {
      const auto step = decode_response(keys, ConstSpan(wire).first(cut));
      ASSERT_TRUE(step && !step->message && step->used == 0) << cut;
    }
    const std::size_t size = wire.size();
    wire.push_back(0xAB);
    const auto step = decode_response(keys, wire);
    ASSERT_TRUE(step && step->message);
    EXPECT_EQ(step->used, size);
    ASSERT_EQ(step->message->switch_account.has_value(), entry.has("command"));
    if (entry.has("command")) {
      const auto& wanted = entry["command"];
      const SwitchAccount& command = *step->message->switch_account;
      EXPECT_EQ(command.host, wanted["host"].text());
      EXPECT_EQ(command.port, wanted["port"].number());
      EXPECT_EQ(to_hex(command.id.value), wanted["uuid"].text());
      EXPECT_EQ(command.alter_id, wanted["alter_id"].number());
      EXPECT_EQ(command.level, wanted["level"].number());
      EXPECT_EQ(command.valid_minutes, wanted["valid_minutes"].number());
    } else {
      Bytes ours(kMaxResponseBytes);
      ours.resize(encode_response(keys, ours));
      EXPECT_EQ(to_hex(ours), entry["wire"].text());
    }
  }
}

TEST(ResponseHeader, RefusesDamageAndTheWrongEcho) {
  SessionKeys keys;
  keys.response_auth = 7;
  for (const bool legacy : {false, true}) {
    keys.legacy = legacy;
    derive_response_keys(keys);
    Bytes wire(kMaxResponseBytes);
    wire.resize(encode_response(keys, wire));
    ASSERT_TRUE(decode_response(keys, wire)->message);
    SessionKeys other = keys;
    other.response_auth = 8;
    EXPECT_EQ(decode_response(other, wire).error().fault, WireFault::bad_command);
    if (legacy) continue;
    for (std::size_t i = 0; i < wire.size(); ++i) {
      Bytes damaged = wire;
      damaged[i] ^= 1;
      const auto step = decode_response(keys, damaged);
      ASSERT_FALSE(step) << i;
      EXPECT_EQ(step.error().fault, WireFault::bad_tag);
    }
  }
}

/// Seals `plain` as a server would, whatever it says.
Bytes sealed_response(const SessionKeys& keys, ConstSpan plain) {
  using crypto::Aead;
  Bytes out(18 + plain.size() + 16);
  std::array<std::uint8_t, 2> length;
  store_be16(length, static_cast<std::uint16_t>(plain.size()));
  Aead(crypto::AeadAlgorithm::aes_128_gcm, kdf16(keys.response_key, {as_bytes("AEAD Resp Header Len Key")}),
       Aead::Use::seal)
      .seal(kdf12(keys.response_iv, {as_bytes("AEAD Resp Header Len IV")}), {}, ConstSpan(length), out);
  Aead(crypto::AeadAlgorithm::aes_128_gcm, kdf16(keys.response_key, {as_bytes("AEAD Resp Header Key")}),
       Aead::Use::seal)
      .seal(kdf12(keys.response_iv, {as_bytes("AEAD Resp Header IV")}), {}, plain, MutSpan(out).subspan(18));
  return out;
}

TEST(ResponseHeader, SkipsWhatItDoesNotUnderstand) {
  SessionKeys keys;
  keys.response_auth = 1;
  derive_response_keys(keys);
  const auto decoded = [&](const Bytes& plain) { return decode_response(keys, sealed_response(keys, plain)); };
  const std::vector<Bytes> fine = {
      {1, 0xFF, 0, 0},                    // options mean nothing
      {1, 0, 0, 200},                     // no command: the length means nothing
      {1, 0, 9, 3, 1, 2, 3},              // unknown command
      {1, 0, 1, 4, 1, 2, 3, 4},           // no room for a checksum and data
      {1, 0, 1, 6, 1, 2, 3, 4, 5, 6},     // checksum wrong
      {1, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9},  // bytes behind the command
  };
  for (const Bytes& plain : fine) {
    const auto step = decoded(plain);
    ASSERT_TRUE(step && step->message);
    EXPECT_FALSE(step->message->switch_account);
    EXPECT_EQ(step->used, 18 + plain.size() + 16);
  }
  Bytes short_host = {1, 0, 1, 7, 0, 0, 0, 0, 200, 1, 2};  // checksum right, host longer than the data
  store_be32(MutSpan(short_host).subspan(4), crypto::fnv1a(ConstSpan(short_host).subspan(8)));
  EXPECT_FALSE(decoded(short_host)->message->switch_account);
  EXPECT_EQ(decoded({1, 0, 0}).error().fault, WireFault::bad_length);
  EXPECT_EQ(decoded({1, 0, 1, 5, 1}).error().fault, WireFault::truncated);
}

}  // namespace
}  // namespace ebb::vmess
