// VMess as a layer: every cipher and option, client against server, moving between processes, the ends of a direction.
#include "worker/layers/vmess/vmess.h"

#include <gtest/gtest.h>

#include "tests/support/layer_end.h"
#include "worker/layers/plain.h"

namespace ebb::layers {
namespace {

using test::LayerEnd;
using vmess::Security;

struct Kind {
  Security security;
  std::uint8_t options;
  bool legacy = false;
};

std::vector<Kind> kinds() {
  std::vector<Kind> out;
  for (const Security security : {Security::aes_128_gcm, Security::chacha20_poly1305, Security::none, Security::cfb}) {
    for (const std::uint8_t options : {0x00, 0x01, 0x05, 0x0d, 0x1d}) {
      for (const bool legacy : {false, true}) out.push_back({security, options, legacy});
    }
  }
  return out;
}

class VmessLayer : public testing::TestWithParam<Kind> {
 protected:
  VmessLayer() : handshake(*vmess::ClientHandshake::make(options(), kTarget, 1'700'000'000, random)) {
    near.add(std::make_unique<VmessClientLayer>(handshake, random));
    far.add(std::make_unique<VmessServerLayer>(handshake.keys(), random));
    near.speak();
    const ConstSpan request = handshake.request();
    EXPECT_EQ(near.sent, Bytes(request.begin(), request.end()));
    near.sent.clear();
  }
  static vmess::ClientOptions options() {
    vmess::ClientOptions out;
    out.user.id.value.fill(7);
    out.security = GetParam().security;
    out.options = GetParam().options;
    out.legacy = GetParam().legacy;
    return out;
  }
  bool has_end() const { return (GetParam().options & 1) != 0; }

  const Target kTarget{Network::tcp, std::string("x.test"), 80};
  crypto::SeededRandom random{1};
  vmess::ClientHandshake handshake;
  LayerEnd near, far;
};

Bytes pattern(std::size_t bytes) {
  Bytes out(bytes);
  for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<std::uint8_t>(i * 13 + i / 200);
  return out;
}

TEST_P(VmessLayer, CarriesBothWaysAndEnds) {
  const Bytes bytes = pattern(40000);
  near.send(bytes);
  near.end();
  far.receive(std::exchange(near.sent, {}), 777);
  EXPECT_EQ(far.received, bytes);
  EXPECT_EQ(far.ended, has_end());
  far.send(bytes);
  far.end();
  near.receive(std::exchange(far.sent, {}), 777);
  EXPECT_EQ(near.received, bytes);
  EXPECT_EQ(near.ended, has_end());
  EXPECT_TRUE(near.stack.eof_is_clean());
  EXPECT_FALSE(near.stack.half_closes());
}

TEST_P(VmessLayer, SaysInFrontExactlyWhatItAnnounced) {
  VmessServerLayer server(handshake.keys(), random);
  for (int i = 0; i < 3; ++i) {
    const Bytes payload = pattern(100);
    const ConstSpan part = payload;
    Bytes out(400, 0xbb);
    const std::size_t at = server.head(payload.size());
    EXPECT_LE(at, server.max_head());
    const MutSpan sealed = server.seal({&part, 1}, MutSpan(out).first(at + payload.size() + server.max_tail()), at);
    EXPECT_EQ(sealed.data(), out.data()) << "an inexact announcement costs a move of the chunk";
  }
}

TEST_P(VmessLayer, SealsWhereThePayloadLiesAsFromElsewhere) {
  crypto::SeededRandom one(5), two(5);
  VmessServerLayer here(handshake.keys(), one), there(handshake.keys(), two);
  for (int i = 0; i < 3; ++i) {
    const Bytes payload = pattern(300);
    const std::size_t at = here.head(payload.size());
    Bytes out(at + payload.size() + here.max_tail()), other(out.size());
    std::ranges::copy(payload, out.begin() + static_cast<std::ptrdiff_t>(at));
    const ConstSpan in_place = ConstSpan(out).subspan(at, payload.size());
    const MutSpan a = here.seal({&in_place, 1}, out, at);
    const ConstSpan halves[] = {ConstSpan(payload).first(1), ConstSpan(payload).subspan(1)};
    const MutSpan b = there.seal(halves, other, at);
    EXPECT_TRUE(std::ranges::equal(a, b));
  }
}

TEST_P(VmessLayer, GoesOnInAnotherProcessAtAnyByte) {
  const Bytes bytes = pattern(900);
  near.send(std::span(bytes).first(300));
  near.send(std::span(bytes).subspan(300));
  const Bytes wire = std::exchange(near.sent, {});
  for (const std::uint8_t each : wire) {
    far.receive({&each, 1});
    const auto state = far.stack.save();
    ASSERT_TRUE(state);
    ASSERT_EQ(state->levels.size(), 1u);
    EXPECT_EQ(state->levels[0].layer.type, kVmessState);
    auto layer = VmessServerLayer::restore(state->levels[0].layer.bytes, random);
    ASSERT_TRUE(layer);
    far.stack = Stack();
    far.stack.push(std::move(*layer), state->levels[0].unread);
  }
  EXPECT_EQ(far.received, bytes);
  far.send(bytes);
  near.receive(std::exchange(far.sent, {}));
  // A response header that was sent is not sent again, and what follows it goes on where it was.
  auto layer = VmessServerLayer::restore(far.stack.save()->levels[0].layer.bytes, random);
  ASSERT_TRUE(layer);
  far.stack = Stack(std::move(*layer));
  far.send(bytes);
  far.end();
  near.receive(std::exchange(far.sent, {}));
  EXPECT_EQ(near.received.size(), 2 * bytes.size());
  EXPECT_FALSE(near.failed);
}

TEST_P(VmessLayer, EndsBeforeItSaidAnythingWithTheHeaderAlone) {
  far.end();
  EXPECT_EQ(far.sent.size(), vmess::response_bytes(handshake.keys()));
  near.receive(std::exchange(far.sent, {}));
  EXPECT_FALSE(near.failed || near.ended);
  EXPECT_TRUE(near.stack.eof_is_clean());
}

INSTANTIATE_TEST_SUITE_P(All, VmessLayer, testing::ValuesIn(kinds()), [](const auto& tested) {
  const Kind& kind = tested.param;
  return "security_" + std::to_string(static_cast<int>(kind.security)) + "_options_" + std::to_string(kind.options) +
         (kind.legacy ? "_legacy" : "");
});

TEST(VmessLayers, AClientStaysWhereItIs) {
  crypto::SeededRandom random(1);
  const Target target{Network::tcp, std::string("x.test"), 80};
  const auto handshake = vmess::ClientHandshake::make({}, target, 1'700'000'000, random);
  EXPECT_EQ(VmessClientLayer(*handshake, random).save().error(), Stays::never);
}

TEST(VmessLayers, TrustNoState) {
  crypto::SeededRandom random(1);
  EXPECT_FALSE(VmessServerLayer::restore({}, random));
  EXPECT_FALSE(VmessServerLayer::restore(Bytes(vmess::kSessionStateBytes, 0xff), random));
}

}  // namespace
}  // namespace ebb::layers
