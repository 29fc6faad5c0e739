#include "common/protocol/vmess/body.h"

#include <gtest/gtest.h>

#include "common/protocol/vmess/response.h"
#include "tests/unit/protocol/vmess/vector_support.h"

namespace ebb::vmess {
namespace {

/// Gives the padding that a real peer drew, so that its stream can be made again bit for bit.
class RecordedPadding final : public crypto::RandomSource {
 public:
  explicit RecordedPadding(Bytes bytes) : bytes_(std::move(bytes)) {}
  void fill(MutSpan out) override {
    ASSERT_LE(at_ + out.size(), bytes_.size());
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(at_), out.size(), out.begin());
    at_ += out.size();
  }
  bool spent() const { return at_ == bytes_.size(); }

 private:
  Bytes bytes_;
  std::size_t at_ = 0;
};

/// One direction of a session vector.
struct Direction {
  BodyState to_open, to_seal;
  Bytes wire;
  const test::Json* chunks;
};

std::vector<Direction> directions_of(const test::Json& entry) {
  const SessionKeys keys = keys_of(entry);
  const auto header = decode_response(keys, entry["response_header"].hex());
  EXPECT_TRUE(header && header->message);
  return {{request_body(keys), request_body(keys), entry["request_body"].hex(), &entry["request_chunks"]},
          {header->message->body, response_body(keys), entry["response_body"].hex(), &entry["response_chunks"]}};
}

void check_reading(const Direction& direction, const test::Json& entry) {
  const std::vector<Bytes> written = hex_list(entry["payload"]);
  const auto check = [&](const OpenedBody& body) {
    ASSERT_FALSE(body.error);
    ASSERT_EQ(body.joined(), joined(written));
    EXPECT_EQ(body.end, entry["end_chunk"].boolean());
    EXPECT_TRUE(body.clean);
    if (entry["packet_mode"].boolean()) {
      EXPECT_EQ(body.pieces, written);
    }
  };
  check(open_whole(direction.to_open, direction.wire));
  crypto::SeededRandom random(direction.wire.size());
  const std::size_t rounds = direction.wire.size() > 100'000 ? 1 : 8;
  for (std::size_t round = 0; round < rounds; ++round) {
    BodyOpener opener(direction.to_open);
    const std::uint32_t longest = round == 0 ? 1 : 1u << random.below(13);
    if (round == 0 && direction.wire.size() > 20'000) continue;  // a byte at a time: the shorter ones will do
    check(open_body(opener, direction.wire, [&] { return random.below(longest); }, [](BodyOpener&) {}));
  }
}

void check_writing(const Direction& direction, const test::Json& entry) {
  const auto& chunks = *direction.chunks;
  const bool sealed_length = (entry["option"].number() & 0x10) != 0 && entry["security"].number() != 5;
  Bytes readable = direction.wire;  // security 1 encrypts its padding
  if (direction.to_seal.security == Security::cfb) {
    crypto::CfbStream(direction.to_seal.key, direction.to_seal.cfb, crypto::CfbStream::Use::decrypt)
        .apply_in_place(readable);
  }
  Bytes padding;
  for (const auto& chunk : chunks) {
    const auto number = [&](const char* key) { return static_cast<std::size_t>(chunk[key].number()); };
    const std::size_t end = number("offset") + (sealed_length ? 18 : 2) + number("size");
    if (end <= readable.size()) {
      padding.insert(padding.end(), readable.begin() + static_cast<std::ptrdiff_t>(end - number("pad")),
                     readable.begin() + static_cast<std::ptrdiff_t>(end));
    }
  }
  RecordedPadding random(padding);
  BodySealer sealer(direction.to_seal, random);
  sealer.set_max_payload(65'000);
  const Bytes payload = joined(hex_list(entry["payload"]));
  Bytes wire;
  Bytes out(65'000 + BodySealer::kMaxOverhead);
  std::size_t from = 0;
  for (const auto& chunk : chunks) {
    std::size_t n = 0;
    if (chunk["end"].boolean()) {
      n = sealer.seal_end(out);
    } else {
      const std::size_t size = static_cast<std::size_t>(chunk["payload_len"].number());
      ASSERT_LE(from + size, payload.size());
      const ConstSpan all = ConstSpan(payload).subspan(from, size);
      const ConstSpan parts[] = {all.first(size / 3), {}, all.subspan(size / 3)};
      n = sealer.seal(parts, out);
      ASSERT_LE(n, size + BodySealer::kMaxOverhead);
      from += size;
    }
    wire.insert(wire.end(), out.begin(), out.begin() + static_cast<std::ptrdiff_t>(n));
  }
  if (chunks.size() == 0) {
    const std::size_t n = sealer.seal(payload, out);
    wire.assign(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(n));
    EXPECT_EQ(sealer.passthrough(), direction.to_seal.security == Security::none);
    EXPECT_EQ(sealer.seal_end(out), 0u);
  } else {
    EXPECT_FALSE(sealer.passthrough());
    EXPECT_EQ(from, payload.size());
  }
  EXPECT_TRUE(random.spent());
  EXPECT_EQ(to_hex(wire), to_hex(direction.wire));
}

TEST(Body, ReadsAndWritesWhatTheRealImplementationsDid) {
  for (const auto& entry : test::load_vectors("vmess/sessions.json")["vectors"]) {
    SCOPED_TRACE(entry["name"].text());
    for (const Direction& direction : directions_of(entry)) {
      check_reading(direction, entry);
      check_writing(direction, entry);
      if (testing::Test::HasFailure()) return;
    }
  }
}

TEST(Body, ChaChaKeyExpansion) {
  const auto vectors = test::load_vectors("vmess/primitives.json");
  const auto& entry = vectors["chacha20_key_expansion"].at(0);
  BodyState state;
  state.security = Security::chacha20_poly1305;
  state.options = option::chunk_stream;
  state.key = array_of(entry["in"]);
  crypto::SeededRandom random(1);
  BodySealer sealer(state, random);
  Bytes ours(100 + BodySealer::kMaxOverhead);
  ours.resize(sealer.seal(Bytes(100, 'x'), ours));
  Bytes reference(116);
  crypto::Aead(crypto::AeadAlgorithm::chacha20_poly1305, entry["out"].hex(), crypto::Aead::Use::seal)
      .seal({}, {}, Bytes(100, 'x'), reference);
  EXPECT_EQ(to_hex(ConstSpan(ours).subspan(2)), to_hex(reference));
}

/// Every combination of cipher, options and mode that may be used.
std::vector<SessionKeys> every_combination() {
  std::vector<SessionKeys> all;
  for (const Security security : {Security::cfb, Security::aes_128_gcm, Security::chacha20_poly1305, Security::none}) {
    for (std::uint8_t options = 0; options < 0x20; ++options) {
      SessionKeys keys;
      keys.security = security;
      keys.options = options;
      if (keys.has(0x02) || (keys.has(option::padding) && !keys.has(option::mask))) continue;
      for (const Command command : {Command::tcp, Command::udp}) {
        for (const bool legacy : {false, true}) {
          keys.command = command;
          keys.legacy = legacy;
          keys.request_key.fill(0x11);
          keys.request_iv.fill(0x22);
          derive_response_keys(keys);
          all.push_back(keys);
        }
      }
    }
  }
  return all;
}

std::string describe(const SessionKeys& keys) {
  return "security " + std::to_string(static_cast<int>(keys.security)) + " options " + std::to_string(keys.options) +
         " command " + std::to_string(static_cast<int>(keys.command)) + (keys.legacy ? " legacy" : "");
}

const std::vector<std::size_t> kSizes = {1, 15, 16, 17, 1000, 1969};

Bytes write_all(BodySealer& sealer, bool with_end) {
  Bytes wire;
  Bytes out(20'000);
  std::uint8_t fill = 1;
  for (const std::size_t size : kSizes) {
    const std::size_t n = sealer.seal(Bytes(size, fill++), out);
    wire.insert(wire.end(), out.begin(), out.begin() + static_cast<std::ptrdiff_t>(n));
  }
  if (with_end) {
    const std::size_t n = sealer.seal_end(out);
    wire.insert(wire.end(), out.begin(), out.begin() + static_cast<std::ptrdiff_t>(n));
  }
  return wire;
}

TEST(Body, EveryCombinationInBothDirectionsAtRandomCuts) {
  crypto::SeededRandom random(5);
  for (const SessionKeys& keys : every_combination()) {
    SCOPED_TRACE(describe(keys));
    for (const BodyState& state : {request_body(keys), response_body(keys)}) {
      BodySealer sealer(state, random);
      const Bytes wire = write_all(sealer, true);
      EXPECT_TRUE(sealer.ended());
      Bytes scratch(200);
      EXPECT_EQ(sealer.seal_end(scratch), 0u) << "one end chunk, not two";
      BodyOpener opener(state);
      const OpenedBody body = open_body(opener, wire, [&] { return random.below(400); }, [](BodyOpener&) {});
      ASSERT_FALSE(body.error);
      ASSERT_TRUE(body.clean);
      EXPECT_EQ(body.end, keys.has(option::chunk_stream));
      std::size_t total = 0;
      for (const std::size_t size : kSizes) total += size;
      ASSERT_EQ(body.joined().size(), total);
      if (state.framed() && keys.packet_mode()) {
        ASSERT_EQ(body.pieces.size(), kSizes.size());
        for (std::size_t i = 0; i < kSizes.size(); ++i) EXPECT_EQ(body.pieces[i].size(), kSizes[i]);
      }
    }
  }
}

TEST(Body, MovesToAnotherProcessBetweenAnyTwoBytes) {
  crypto::SeededRandom random(6);
  for (const SessionKeys& keys : every_combination()) {
    SCOPED_TRACE(describe(keys));
    const BodyState start = response_body(keys);
    BodySealer whole(start, random);
    // The writer moves after every chunk.
    BodyState state = start;
    Bytes wire;
    Bytes expected;
    Bytes out(5000);
    for (std::uint8_t i = 0; i < 12; ++i) {
      BodySealer sealer(state, random);
      const Bytes payload(1 + i * 7u, i);
      const std::size_t n = sealer.seal(payload, out);
      wire.insert(wire.end(), out.begin(), out.begin() + static_cast<std::ptrdiff_t>(n));
      expected.insert(expected.end(), payload.begin(), payload.end());
      state = sealer.save();
    }
    BodySealer last(state, random);
    const std::size_t n = last.seal_end(out);
    wire.insert(wire.end(), out.begin(), out.begin() + static_cast<std::ptrdiff_t>(n));
    EXPECT_TRUE(BodySealer(last.save(), random).ended());
    // The reader moves after every byte.
    BodyOpener opener(start);
    const OpenedBody body = open_body(
        opener, wire, [] { return 1; },
        [](BodyOpener& self) {
          const BodyState saved = self.save();
          self = BodyOpener(saved);
          EXPECT_EQ(self.save(), saved);
        });
    ASSERT_FALSE(body.error);
    EXPECT_EQ(body.joined(), expected);
    EXPECT_EQ(body.end, keys.has(option::chunk_stream));
  }
}

TEST(Body, CounterWrapsAndGoesOn) {
  SessionKeys keys;
  keys.options = usual_options(Security::aes_128_gcm) | option::authenticated_length;
  crypto::SeededRandom random(7);
  BodySealer sealer(request_body(keys), random);
  BodyOpener opener(request_body(keys));
  Bytes out(200);
  for (std::uint32_t i = 0; i < 65'540; ++i) {
    const std::size_t n = sealer.seal(as_bytes("x"), out);
    const auto opened = opener.open(MutSpan(out).first(n));
    ASSERT_TRUE(opened && opened->used == n && opened->payload.size() == 1) << i;
  }
  EXPECT_EQ(sealer.save().counter, 4);
  EXPECT_EQ(sealer.save().length_counter, 4);
}

TEST(Body, SealsInPlaceWhereThePayloadBelongs) {
  for (const SessionKeys& keys : every_combination()) {
    SCOPED_TRACE(describe(keys));
    crypto::SeededRandom random(8);
    crypto::SeededRandom same(8);
    BodySealer apart(request_body(keys), random);
    BodySealer in_place(request_body(keys), same);
    const Bytes payload(777, 'p');
    Bytes wanted(1000);
    wanted.resize(apart.seal(payload, wanted));
    Bytes out(1000);
    const std::size_t offset = in_place.payload_offset();
    std::ranges::copy(payload, out.begin() + static_cast<std::ptrdiff_t>(offset));
    out.resize(in_place.seal(ConstSpan(out).subspan(offset, payload.size()), out));
    EXPECT_EQ(out, wanted);
  }
}

TEST(Body, EveryFlippedByteIsRefusedOrOnlyPadding) {
  for (const Security security : {Security::aes_128_gcm, Security::chacha20_poly1305, Security::cfb}) {
    for (const std::uint8_t options : {0x01, 0x05, 0x11, 0x15}) {  // without padding every byte counts
      if (security == Security::cfb && (options & 0x10)) continue;
      SessionKeys keys;
      keys.security = security;
      keys.options = options;
      crypto::SeededRandom random(9);
      BodySealer sealer(request_body(keys), random);
      Bytes wire(400);
      std::size_t n = sealer.seal(Bytes(40, 'a'), wire);
      n += sealer.seal(Bytes(50, 'b'), MutSpan(wire).subspan(n));
      wire.resize(n);
      for (std::size_t i = 0; i < n; ++i) {
        Bytes damaged = wire;
        damaged[i] ^= 0x04;
        const OpenedBody body = open_whole(request_body(keys), damaged);
        EXPECT_TRUE(body.error || !body.clean) << "byte " << i << " options " << int{options};
        EXPECT_LT(body.joined().size(), 90u);
      }
    }
  }
}

TEST(Body, LengthsOutOfRangeAreRefused) {
  SessionKeys keys;
  keys.options = option::chunk_stream;
  for (const auto& [security, size] : {std::pair{Security::aes_128_gcm, 15}, {Security::cfb, 3}}) {
    keys.security = security;
    BodyState state = request_body(keys);
    Bytes wire(2);
    store_be16(wire, static_cast<std::uint16_t>(size));
    if (security == Security::cfb) {
      crypto::CfbStream(state.key, state.cfb, crypto::CfbStream::Use::encrypt).apply_in_place(wire);
    }
    EXPECT_EQ(open_whole(state, wire).error, (WireError{WireFault::bad_length, 0}));
  }
}

TEST(Body, TheEndNeedsNothingButItsLength) {
  SessionKeys keys;
  keys.options = option::chunk_stream;
  const BodyState state = request_body(keys);
  const Bytes only_length = {0, 16};
  OpenedBody body = open_whole(state, only_length);
  EXPECT_TRUE(body.end && body.clean);
  BodyOpener opener(state);
  Bytes more = {0, 16, 1, 2, 3};
  EXPECT_EQ(opener.open(more)->used, more.size());
  EXPECT_EQ(opener.open(more)->used, more.size()) << "what follows the end is thrown away";
  EXPECT_TRUE(opener.open({})->end);
}

TEST(Body, DefaultsSuitStockPeers) {
  SessionKeys keys;
  keys.options = usual_options(keys.security);
  crypto::SeededRandom random(1);
  EXPECT_EQ(BodySealer(request_body(keys), random).max_payload(), 16'384u);
  keys.command = Command::udp;
  EXPECT_EQ(BodySealer(request_body(keys), random).max_payload(), 1969u);
  BodySealer sealer(request_body(keys), random);
  sealer.set_max_payload(1'000'000);
  Bytes payload(sealer.max_payload(), 'z');
  Bytes wire(payload.size() + BodySealer::kMaxOverhead);
  for (int i = 0; i < 50; ++i) {  // whatever padding is drawn, the length field holds it
    const std::size_t n = sealer.seal(payload, wire);
    ASSERT_LE(n, kMaxChunkBytes);
  }
}

}  // namespace
}  // namespace ebb::vmess
