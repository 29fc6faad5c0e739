// The table of protocols: everything the configuration can say has its line, and what travels comes back as it was.
#include <gtest/gtest.h>

#include <algorithm>

#include "common/protocol/vmess/client.h"
#include "tests/support/layer_end.h"
#include "worker/layers/vmess/vmess.h"
#include "worker/protocols/table.h"

namespace ebb::protocols {
namespace {

const Target kTarget{Network::tcp, std::string("x.test"), 80};

TEST(Protocols, EveryKindOfInboundAndOutboundHasOneLine) {
  const auto count = [](auto member, std::size_t kind) {
    return std::ranges::count_if(all(), [&](const Protocol& each) { return each.*member == kind; });
  };
  for (std::size_t i = 0; i < std::variant_size_v<decltype(config::Inbound::protocol)>; ++i)
    EXPECT_EQ(count(&Protocol::inbound, i), 1) << i;
  for (std::size_t i = 0; i < std::variant_size_v<decltype(config::Outbound::protocol)>; ++i)
    EXPECT_EQ(count(&Protocol::outbound, i), 1) << i;
  for (const Protocol& each : all()) {
    EXPECT_EQ(each.inbound != kNone, each.enter != nullptr) << each.name;
    EXPECT_EQ(each.outbound != kNone, each.way != nullptr) << each.name;
    EXPECT_EQ(each.state != 0, each.restore != nullptr) << each.name;
    if (each.state == 0) continue;
    EXPECT_TRUE(ipc::is_layer(ipc::layer_tlv(each.state))) << each.name;
    EXPECT_EQ(count(&Protocol::state, each.state), 1) << each.name;
  }
}

TEST(Protocols, AnInboundWithoutAHandshakeHasItsTarget) {
  config::Inbound settings;
  settings.protocol = config::DokodemoInbound{std::string("service"), 80, 0};
  crypto::SeededRandom random(1);
  const auto entrance = enter(settings, {nullptr, random, std::chrono::seconds(4), nullptr});
  ASSERT_TRUE(entrance);
  EXPECT_EQ(entrance->fixed->text(), "tcp:service:80");
  EXPECT_EQ(entrance->door, nullptr);
}

TEST(Protocols, AnInboundThatLacksWhatItNeedsSaysSo) {
  config::Inbound settings;
  settings.protocol = config::VmessInbound{};
  crypto::SeededRandom random(1);
  const auto entrance = enter(settings, {nullptr, random, std::chrono::seconds(4), nullptr});
  ASSERT_FALSE(entrance);
  EXPECT_EQ(entrance.error().code, Errc::protocol);
}

struct Travelled : testing::Test {
  Travelled() : handshake(*vmess::ClientHandshake::make({}, kTarget, 1'700'000'000, random)) {
    near.add(std::make_unique<layers::VmessClientLayer>(handshake, random));
    far.add(std::make_unique<layers::VmessServerLayer>(handshake.keys(), random));
    near.speak();
    near.sent.clear();  // the request header: read by the handshake
  }
  Bytes blob(ConstSpan unread) {
    ipc::BlobWriter writer;
    EXPECT_TRUE(save(far.stack, unread, writer));
    return writer.take();
  }
  crypto::SeededRandom random{1};
  vmess::ClientHandshake handshake;
  test::LayerEnd near, far;
};

TEST_F(Travelled, GoOnWhereTheyWere) {
  const Bytes bytes(3000, 9);
  near.send(bytes);
  const Bytes wire = std::exchange(near.sent, {});
  const auto part = [&](std::size_t from, std::size_t to) { return ConstSpan(wire).subspan(from, to - from); };
  far.receive(part(0, 1000));  // kept by the layer, for the chunk is not whole
  const Bytes travelling = blob(part(1000, 1500));
  const auto decoded = ipc::decode_blob(travelling);
  ASSERT_TRUE(decoded);
  auto restored = restore(*decoded, random);
  ASSERT_TRUE(restored);
  EXPECT_EQ(restored->unread, Bytes(wire.begin(), wire.begin() + 1500));
  far.stack = std::move(restored->layers);
  far.receive(restored->unread);
  far.receive(part(1500, wire.size()));
  EXPECT_EQ(far.received, bytes);
}

TEST_F(Travelled, WhoCannotTravelStays) {
  ipc::BlobWriter writer;
  EXPECT_FALSE(save(near.stack, {}, writer));
  ipc::BlobWriter full;
  EXPECT_FALSE(save(far.stack, Bytes(18 * 1024), full)) << "more unread than a blob may have";
}

TEST_F(Travelled, NothingInABlobIsTrusted) {
  const auto refused = [&](ipc::Tlv type, ConstSpan value) {
    ipc::BlobWriter writer;
    EXPECT_TRUE(writer.add(type, value));
    const Bytes bytes = writer.take();
    return !restore(*ipc::decode_blob(bytes), random);
  };
  EXPECT_TRUE(refused(ipc::layer_tlv(layers::kVmessState), Bytes(20)));
  EXPECT_TRUE(refused(ipc::layer_tlv(4), Bytes(20))) << "a layer nobody knows is not skipped";
}

TEST_F(Travelled, WithoutLayersBytesAreJustBytes) {
  ipc::BlobWriter writer;
  const Bytes bytes(10, 3);
  ASSERT_TRUE(writer.add(ipc::Tlv::unread_plain, bytes));
  const Bytes blob_bytes = writer.take();
  const auto restored = restore(*ipc::decode_blob(blob_bytes), random);
  ASSERT_TRUE(restored);
  EXPECT_TRUE(restored->layers.empty());
  EXPECT_EQ(restored->unread, bytes);
}

TEST_F(Travelled, BytesAboveTheHighestLayerAreNobodys) {
  ipc::BlobWriter writer;
  ASSERT_TRUE(save(far.stack, {}, writer));
  ASSERT_TRUE(writer.add(ipc::Tlv::unread_plain, Bytes(10, 3)));
  ASSERT_TRUE(writer.add(ipc::Tlv::unread_cipher, Bytes(10, 3)));
  const Bytes bytes = writer.take();
  EXPECT_FALSE(restore(*ipc::decode_blob(bytes), random));
}

}  // namespace
}  // namespace ebb::protocols
