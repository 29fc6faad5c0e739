// Stacks of one to three layers against their mirror image: cut at every byte, speaking up by themselves, ending one
// direction, moving to another process in between.
#include "worker/layers/stack.h"

#include <gtest/gtest.h>

#include <functional>

#include "common/protocol/vmess/client.h"
#include "tests/support/chatty_layer.h"
#include "tests/support/layer_end.h"
#include "worker/layers/plain.h"
#include "worker/layers/vmess/vmess.h"

namespace ebb::layers {
namespace {

using test::ChattyLayer;
using test::LayerEnd;

/// A server's layer in front of which the request header still lies, which a handshake has read.
class SkipLayer final : public Layer {
 public:
  SkipLayer(std::size_t bytes, std::unique_ptr<Layer> layer) : left_(bytes), layer_(std::move(layer)) {}
  Decoded<Opened> open(MutSpan in) override {
    if (left_ == 0) return layer_->open(in);
    const std::size_t n = std::min(left_, in.size());
    left_ -= n;
    return Opened{n, {}, false};
  }
  std::size_t max_kept() const override { return layer_->max_kept(); }
  bool eof_is_clean() const override { return layer_->eof_is_clean(); }
  std::size_t max_payload() const override { return layer_->max_payload(); }
  std::size_t head(std::size_t payload) const override { return layer_->head(payload); }
  std::size_t max_head() const override { return layer_->max_head(); }
  std::size_t max_tail() const override { return layer_->max_tail(); }
  MutSpan seal(std::span<const ConstSpan> parts, MutSpan out, std::size_t at) override {
    return layer_->seal(parts, out, at);
  }
  std::size_t seal_end(MutSpan out) override { return layer_->seal_end(out); }
  Saved save() const override { return std::unexpected{Stays::never}; }

 private:
  std::size_t left_;
  std::unique_ptr<Layer> layer_;
};

/// Names of layers, bottom first: c chatty, p plain, v VMess.
struct Pair {
  explicit Pair(std::string_view layers) {
    for (const char kind : layers) {
      if (kind == 'c') {
        near.add(std::make_unique<ChattyLayer>(true));
        far.add(std::make_unique<ChattyLayer>(false));
      } else if (kind == 'p') {
        near.add(std::make_unique<PlainLayer>());
        far.add(std::make_unique<PlainLayer>());
      } else {
        vmess::ClientOptions options;
        const Target target{Network::tcp, std::string("x.test"), 80};
        const auto handshake = vmess::ClientHandshake::make(options, target, 1'700'000'000, random);
        near.add(std::make_unique<VmessClientLayer>(*handshake, random));
        far.add(std::make_unique<SkipLayer>(handshake->request().size(),
                                            std::make_unique<VmessServerLayer>(handshake->keys(), random)));
      }
    }
  }
  /// Everything that is said passes, `piece` bytes at a time, until both are quiet.
  void exchange(std::size_t piece = SIZE_MAX) {
    near.speak();
    while (!near.sent.empty() || !far.sent.empty()) {
      far.receive(std::exchange(near.sent, {}), piece);
      near.receive(std::exchange(far.sent, {}), piece);
    }
  }

  crypto::SeededRandom random{1};
  LayerEnd near, far;
};

Bytes pattern(std::size_t bytes, unsigned seed = 1) {
  Bytes out(bytes);
  for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<std::uint8_t>(i * 7 + i / 251 + seed);
  return out;
}

const std::vector<std::string_view> kStacks{"p",  "c",  "v",   "pp",  "cc",  "cv", "vc",
                                            "pc", "cp", "ccc", "cpv", "vcc", "cvc"};

class StackTest : public testing::TestWithParam<std::string_view> {};

TEST_P(StackTest, CarriesBothWaysInPiecesOfEverySize) {
  for (const std::size_t piece : {1u, 2u, 3u, 7u, 100u, 1000u, 5000u, 262144u}) {
    Pair pair(GetParam());
    const Bytes up = pattern(piece < 7 ? 3000 : 60000);
    const Bytes down = pattern(up.size(), 99);
    pair.near.send(up);
    pair.exchange(piece);
    pair.far.send(down);
    pair.exchange(piece);
    ASSERT_FALSE(pair.far.failed || pair.near.failed) << piece;
    ASSERT_EQ(pair.far.received, up) << piece;
    ASSERT_EQ(pair.near.received, down) << piece;
    pair.near.end();
    pair.exchange(piece);
    EXPECT_TRUE(GetParam().find_first_not_of('p') == std::string_view::npos || pair.far.ended);
    EXPECT_FALSE(pair.near.ended) << "the other direction goes on";
    pair.far.send(down);
    pair.far.end();
    pair.exchange(piece);
    ASSERT_EQ(pair.near.received.size(), 2 * down.size());
  }
}

TEST_P(StackTest, MayBeCutAtEveryByte) {
  Pair first(GetParam());
  const Bytes small = pattern(130);
  const Bytes more = pattern(300, 5);
  first.near.send(small);
  first.near.send(more);
  first.near.end();
  const std::size_t all = first.near.sent.size();
  for (std::size_t cut = 0; cut <= all; ++cut) {
    Pair pair(GetParam());
    pair.near.send(small);
    pair.near.send(more);
    pair.near.end();
    ASSERT_EQ(pair.near.sent.size(), all);
    const Bytes wire = std::exchange(pair.near.sent, {});
    pair.far.receive({wire.begin(), wire.begin() + static_cast<std::ptrdiff_t>(cut)});
    pair.far.receive({wire.begin() + static_cast<std::ptrdiff_t>(cut), wire.end()});
    ASSERT_FALSE(pair.far.failed) << cut;
    Bytes both = small;
    both.insert(both.end(), more.begin(), more.end());
    ASSERT_EQ(pair.far.received, both) << cut;
    EXPECT_TRUE(pair.far.stack.eof_is_clean());
  }
}

TEST_P(StackTest, SealsManyPartsAsOneStream) {
  Pair pair(GetParam());
  const Bytes all = pattern(40000);
  std::vector<ConstSpan> parts;
  for (std::size_t at = 0, size = 1; at < all.size(); at += size, size = size * 2 % 5003 + 1) {
    size = std::min(size, all.size() - at);
    parts.push_back(std::span(all).subspan(at, size));
    if (at % 3 == 0) parts.emplace_back();
  }
  pair.near.stack.seal(parts, pair.near);
  pair.exchange();
  EXPECT_EQ(pair.far.received, all);
}

TEST_P(StackTest, MovesBetweenAnyTwoReads) {
  if (GetParam().contains('v') || GetParam().contains('p')) GTEST_SKIP() << "one end of these stays where it is";
  for (const std::size_t piece : {1u, 5u, 200u, 3000u}) {
    Pair pair(GetParam());
    pair.exchange();
    const Bytes up = pattern(20000);
    pair.near.send(up);
    const Bytes wire = std::exchange(pair.near.sent, {});
    for (std::size_t at = 0; at < wire.size(); at += piece) {
      const std::size_t n = std::min(piece, wire.size() - at);
      pair.far.receive(
          {wire.begin() + static_cast<std::ptrdiff_t>(at), wire.begin() + static_cast<std::ptrdiff_t>(at + n)});
      const auto state = pair.far.stack.save();
      ASSERT_TRUE(state) << at;
      Stack moved;
      for (const auto& level : state->levels) {
        auto layer = ChattyLayer::restore(level.layer.bytes);
        ASSERT_TRUE(layer);
        moved.push(std::move(*layer), level.unread);
      }
      const auto again = moved.save();
      ASSERT_TRUE(again);
      EXPECT_EQ(*again, *state);
      pair.far.stack = std::move(moved);
    }
    ASSERT_FALSE(pair.far.failed);
    EXPECT_EQ(pair.far.received, up);
    pair.far.send(up);
    pair.exchange();
    EXPECT_EQ(pair.near.received, up);
  }
}

INSTANTIATE_TEST_SUITE_P(All, StackTest, testing::ValuesIn(kStacks),
                         [](const auto& tested) { return std::string(tested.param); });

/// Three chatty layers, and what each of them says and hears.
struct Chat : testing::Test {
  Chat() {
    for (std::size_t i = 0; i < 3; ++i) {
      auto mine = std::make_unique<ChattyLayer>(true);
      auto theirs = std::make_unique<ChattyLayer>(false);
      near_layers[i] = mine.get();
      far_layers[i] = theirs.get();
      near.add(std::move(mine));
      far.add(std::move(theirs));
    }
  }
  void exchange() {
    near.speak();
    while (!near.sent.empty() || !far.sent.empty()) {
      far.receive(std::exchange(near.sent, {}));
      near.receive(std::exchange(far.sent, {}));
    }
  }
  LayerEnd near, far;
  std::array<ChattyLayer*, 3> near_layers{}, far_layers{};
};

TEST_F(Chat, EveryLayerGreetsBeforeAnythingElsePasses) {
  near.speak();
  const Bytes hellos = near.sent;
  near.speak();
  EXPECT_EQ(near.sent, hellos) << "once";
  EXPECT_FALSE(hellos.empty());
  exchange();
  EXPECT_FALSE(near.failed || far.failed);
  EXPECT_TRUE(near.stack.save()) << "all of them have greeted and been greeted";
}

TEST_F(Chat, AnyLayerAnswersByItself) {
  exchange();
  for (std::size_t i = 0; i < 3; ++i) {
    near_layers[i]->ping();
    EXPECT_EQ(near.stack.save().error(), Stays::not_now) << "it still has to say something";
    exchange();
    EXPECT_EQ(far_layers[i]->pings_seen(), 1u);
    EXPECT_EQ(near_layers[i]->pongs_seen(), 1u);
  }
  EXPECT_TRUE(near.received.empty() && far.received.empty());
}

TEST_F(Chat, OneThatCannotTravelKeepsAllOfThem) {
  exchange();
  near_layers[0]->ping();
  near_layers[2]->pinned = true;
  EXPECT_EQ(near.stack.save().error(), Stays::never);
}

TEST_F(Chat, AnEndOfTheTransportInsideAMessageIsNotClean) {
  exchange();
  near.send(pattern(200));
  const Bytes message = std::exchange(near.sent, {});
  far.receive({message.begin(), message.begin() + static_cast<std::ptrdiff_t>(message.size() - 1)});
  EXPECT_FALSE(far.stack.eof_is_clean());
  EXPECT_TRUE(far.received.empty());
}

TEST(Stack, OpensWhatTheLayersBelowHadOpenedAlready) {
  Pair pair("cc");
  pair.exchange();
  const Bytes up = pattern(3000);
  pair.near.send(up);
  // The lowest has opened all of it, the upper one nothing.
  auto state = pair.far.stack.save();
  ASSERT_TRUE(state);
  Stack below;
  below.push(*ChattyLayer::restore(state->levels[0].layer.bytes));
  LayerEnd half;
  half.stack = std::move(below);
  half.receive(std::exchange(pair.near.sent, {}));
  Stack whole;
  whole.push(*ChattyLayer::restore(half.stack.save()->levels[0].layer.bytes));
  whole.push(*ChattyLayer::restore(state->levels[1].layer.bytes), half.received);
  EXPECT_TRUE(whole.has_unread());
  LayerEnd end;
  end.stack = std::move(whole);
  end.receive({});
  EXPECT_EQ(end.received, up);
  EXPECT_FALSE(end.stack.has_unread());
  pair.near.send(up);
  end.receive(std::exchange(pair.near.sent, {}));
  EXPECT_EQ(end.received.size(), 2 * up.size());
}

TEST(Stack, HasNoMoreToOpenOnceItsSinkHasEnough) {
  Pair pair("cc");
  pair.exchange();
  pair.near.send(pattern(3000));
  pair.near.send(pattern(3000));
  pair.far.enough_after = 1;
  pair.far.receive(std::exchange(pair.near.sent, {}));
  EXPECT_EQ(pair.far.received.size(), 3000u);
}

TEST(Stack, ADeeperOneMakesMessagesThatFitEveryLayer) {
  Stack stack;
  stack.push(std::make_unique<ChattyLayer>(true));
  EXPECT_EQ(stack.max_payload(), ChattyLayer::kMaxPayload);
  stack.push(std::make_unique<PlainLayer>());
  EXPECT_EQ(stack.max_payload(), ChattyLayer::kMaxPayload);
  stack.push(std::make_unique<ChattyLayer>(true));
  EXPECT_EQ(stack.max_payload(), ChattyLayer::kMaxPayload - 9);
}

TEST(Stack, OnlyProtocolsWithoutAnEndOfTheirOwnHalfClose) {
  EXPECT_TRUE(Stack().half_closes());
  EXPECT_TRUE(Stack(std::make_unique<PlainLayer>()).half_closes());
  EXPECT_FALSE(Stack(std::make_unique<ChattyLayer>(true)).half_closes());
}

}  // namespace
}  // namespace ebb::layers
