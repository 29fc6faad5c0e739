#include "common/protocol/vmess/session_state.h"

#include <gtest/gtest.h>

#include "tests/unit/protocol/vmess/vector_support.h"

namespace ebb::vmess {
namespace {

SessionState some_state(Security security, bool legacy) {
  SessionState state;
  crypto::SeededRandom random(static_cast<std::uint64_t>(security));
  random.fill(state.keys.request_key);
  random.fill(state.keys.request_iv);
  state.keys.options = usual_options(security) | option::authenticated_length;
  state.keys.security = security;
  state.keys.command = Command::mux;
  state.keys.response_auth = 0x5A;
  state.keys.legacy = legacy;
  derive_response_keys(state.keys);
  state.request = request_body(state.keys);
  state.response = response_body(state.keys);
  return state;
}

TEST(SessionState, CarriesAConnectionInMidChunk) {
  for (const Security security : {Security::cfb, Security::aes_128_gcm, Security::chacha20_poly1305, Security::none}) {
    for (const bool legacy : {false, true}) {
      SessionState state = some_state(security, legacy);
      crypto::SeededRandom random(1);
      BodySealer client(request_body(state.keys), random);
      BodyOpener server(state.request);
      BodySealer answer(state.response, random);
      Bytes wire(3000);
      wire.resize(client.seal(Bytes(1000, 'x'), wire));
      ASSERT_TRUE(server.open(MutSpan(wire).first(20)));
      Bytes discard(500);
      answer.seal(as_bytes("hello"), discard);
      state.request = server.save();
      state.response = answer.save();
      state.response_sent = true;
      const auto blob = encode_state(state);
      const auto moved = decode_state(blob);
      ASSERT_TRUE(moved);
      EXPECT_EQ(*moved, state);
      EXPECT_TRUE(movable(state));
    }
  }
}

TEST(SessionState, TrustsNothing) {
  const auto blob = encode_state(some_state(Security::aes_128_gcm, false));
  EXPECT_EQ(decode_state(ConstSpan(blob).first(109)).error().fault, WireFault::bad_length);
  const auto refused = [&](std::size_t at, std::uint8_t value) {
    auto changed = blob;
    changed[at] = value;
    return !decode_state(changed);
  };
  EXPECT_TRUE(refused(0, 2));
  EXPECT_TRUE(refused(1, option::padding));
  for (const std::uint8_t security : {0, 2, 6, 255}) EXPECT_TRUE(refused(2, security));
  for (const std::uint8_t command : {0, 4}) EXPECT_TRUE(refused(3, command));
  EXPECT_TRUE(refused(5, 4));
  EXPECT_TRUE(refused(38, 4));            // flags
  EXPECT_TRUE(refused(38, 2));            // a known length that cannot hold a tag
  EXPECT_TRUE(refused(39, 64));           // padding
  EXPECT_TRUE(refused(38 + 6, 1));        // a position that would take minutes to squeeze
  EXPECT_TRUE(refused(38 + 18, 16));      // CFB offset
  EXPECT_TRUE(refused(38 + 36 + 19, 1));  // reserved
  auto far = some_state(Security::aes_128_gcm, false);
  far.response.mask_position = kMaxMovableMaskPosition + 1;
  EXPECT_FALSE(movable(far));
}

}  // namespace
}  // namespace ebb::vmess
