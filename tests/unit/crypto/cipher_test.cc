#include <gtest/gtest.h>
#include <openssl/crypto.h>

#include <memory>
#include <vector>

#include "common/crypto/aead.h"
#include "common/crypto/aes.h"
#include "common/crypto/cfb.h"
#include "common/crypto/random.h"
#include "common/crypto/shake.h"
#include "tests/support/vectors.h"

namespace ebb::crypto {
namespace {

template <std::size_t N>
std::array<std::uint8_t, N> array_of(std::string_view hex) {
  const auto bytes = from_hex(hex).value();
  std::array<std::uint8_t, N> out{};
  EXPECT_EQ(bytes.size(), N);
  std::copy_n(bytes.begin(), N, out.begin());
  return out;
}

TEST(Aead, AesGcmOfTheNistTestCase4) {
  const auto key = from_hex("feffe9928665731c6d6a8f9467308308").value();
  const auto nonce = array_of<12>("cafebabefacedbaddecaf888");
  const auto plain = from_hex(
                         "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449"
                         "a6b525b16aedf5aa0de657ba637b39")
                         .value();
  const auto associated = from_hex("feedfacedeadbeeffeedfacedeadbeefabaddad2").value();
  Bytes out(plain.size() + kTagBytes);
  Aead sealer(AeadAlgorithm::aes_128_gcm, key, Aead::Use::seal);
  EXPECT_EQ(sealer.seal(nonce, associated, plain, out), out.size());
  EXPECT_EQ(to_hex(out),
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a"
            "0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47");
}

/// The initialiser in aead.cc came first, and what it asked for holds for every size of a context.
TEST(Aead, ContextsLieWithinOnePage) {
  const Aead uses(AeadAlgorithm::aes_128_gcm, Bytes(16), Aead::Use::seal);
  struct Free {
    void operator()(void* block) const { OPENSSL_free(block); }
  };
  std::vector<std::unique_ptr<void, Free>> blocks;
  for (std::size_t bytes = 256; bytes <= 2048; bytes += 8) {
    blocks.emplace_back(OPENSSL_malloc(bytes));
    const auto first = reinterpret_cast<std::uintptr_t>(blocks.back().get());
    EXPECT_EQ(first / 4096, (first + bytes - 1) / 4096) << bytes;
  }
  const void* const grown = OPENSSL_realloc(blocks.back().release(), 100000);
  blocks.emplace_back(const_cast<void*>(grown));
}

TEST(Aead, ChaChaOfRfc8439) {
  const auto key = from_hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f").value();
  const auto nonce = array_of<12>("070000004041424344454647");
  const auto associated = from_hex("50515253c0c1c2c3c4c5c6c7").value();
  const std::string_view text =
      "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be "
      "it.";
  Bytes out(text.size() + kTagBytes);
  Aead sealer(AeadAlgorithm::chacha20_poly1305, key, Aead::Use::seal);
  sealer.seal(nonce, associated, as_bytes(text), out);
  EXPECT_EQ(to_hex(ConstSpan(out).first(16)), "d31a8d34648e60db7b86afbc53ef7ec2");
  EXPECT_EQ(to_hex(ConstSpan(out).last(16)), "1ae10b594f09e26a7e902ecbd0600691");
}

class EveryAead : public testing::TestWithParam<AeadAlgorithm> {};
INSTANTIATE_TEST_SUITE_P(All, EveryAead,
                         testing::Values(AeadAlgorithm::aes_128_gcm, AeadAlgorithm::aes_256_gcm,
                                         AeadAlgorithm::chacha20_poly1305));

TEST_P(EveryAead, GatheredInputEqualsContiguousInputAtEveryCut) {
  SeededRandom random(1);
  Bytes key(key_bytes(GetParam()));
  random.fill(key);
  Bytes plain(300);
  random.fill(plain);
  Nonce nonce{1, 2, 3};
  Aead sealer(GetParam(), key, Aead::Use::seal);
  Aead opener(GetParam(), key, Aead::Use::open);
  Bytes whole(plain.size() + kTagBytes);
  sealer.seal(nonce, {}, plain, whole);
  for (std::size_t cut = 0; cut <= plain.size(); ++cut) {
    const ConstSpan all(plain);
    const ConstSpan parts[] = {all.first(cut), all.subspan(cut, (plain.size() - cut) / 2),
                               all.subspan(cut + (plain.size() - cut) / 2)};
    Bytes out(whole.size());
    ASSERT_EQ(sealer.seal(nonce, {}, parts, out), whole.size());
    ASSERT_EQ(out, whole) << cut;
    ASSERT_TRUE(opener.open(nonce, {}, out));
    ASSERT_TRUE(std::equal(plain.begin(), plain.end(), out.begin()));
  }
  Bytes in_place = plain;
  in_place.resize(whole.size());
  sealer.seal(nonce, {}, ConstSpan(in_place).first(plain.size()), in_place);
  EXPECT_EQ(in_place, whole);
}

TEST_P(EveryAead, RefusesEveryFlippedByteAndGoesOnAfterwards) {
  const Bytes key(key_bytes(GetParam()), 7);
  const Nonce nonce{9};
  Aead sealer(GetParam(), key, Aead::Use::seal);
  Aead opener(GetParam(), key, Aead::Use::open);
  Bytes sealed(20 + kTagBytes);
  sealer.seal(nonce, as_bytes("head"), Bytes(20, 5), sealed);
  for (std::size_t i = 0; i < sealed.size(); ++i) {
    Bytes damaged = sealed;
    damaged[i] ^= 0x10;
    EXPECT_FALSE(opener.open(nonce, as_bytes("head"), damaged)) << i;
    EXPECT_EQ(Bytes(damaged.begin(), damaged.begin() + 20), Bytes(20, 0));
  }
  Bytes wrong = sealed;
  EXPECT_FALSE(opener.open(nonce, as_bytes("heap"), wrong));
  EXPECT_FALSE(opener.open(nonce, {}, MutSpan(wrong).first(15)));
  EXPECT_TRUE(opener.open(nonce, as_bytes("head"), sealed));
  Bytes empty(kTagBytes);
  EXPECT_EQ(sealer.seal(nonce, {}, ConstSpan{}, empty), kTagBytes);
  EXPECT_TRUE(opener.open(nonce, {}, empty));
}

TEST(AesBlock, Fips197) {
  const auto key = array_of<16>("000102030405060708090a0b0c0d0e0f");
  const auto plain = array_of<16>("00112233445566778899aabbccddeeff");
  AesBlock encrypt(key, AesBlock::Use::encrypt);
  AesBlock decrypt(key, AesBlock::Use::decrypt);
  const Block16 sealed = encrypt.apply(plain);
  EXPECT_EQ(to_hex(sealed), "69c4e0d86a7b0430d8cdb78070b4c55a");
  EXPECT_EQ(decrypt.apply(sealed), plain);
  EXPECT_EQ(encrypt.apply(plain), sealed);
}

TEST(CfbStream, NistVectorCutAndMovedAtEveryByte) {
  const auto key = array_of<16>("2b7e151628aed2a6abf7158809cf4f3c");
  const CfbPosition start{array_of<16>("000102030405060708090a0b0c0d0e0f"), 0};
  const auto plain = from_hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51").value();
  const std::string wanted = "3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b";
  for (std::size_t cut = 0; cut <= plain.size(); ++cut) {
    Bytes out(plain.size());
    CfbStream first(key, start, CfbStream::Use::encrypt);
    first.apply(ConstSpan(plain).first(cut), out);
    CfbStream second(key, first.position(), CfbStream::Use::encrypt);
    second.apply(ConstSpan(plain).subspan(cut), MutSpan(out).subspan(cut));
    ASSERT_EQ(to_hex(out), wanted) << cut;
    CfbStream back(key, start, CfbStream::Use::decrypt);
    back.apply_in_place(MutSpan(out).first(cut));
    CfbStream moved(key, back.position(), CfbStream::Use::decrypt);
    moved.apply_in_place(MutSpan(out).subspan(cut));
    ASSERT_EQ(out, plain) << cut;
  }
}

TEST(Shake128, DrawsAndMovesToAPosition) {
  const auto vectors = test::load_vectors("vmess/primitives.json");
  const auto& entry = vectors["shake128_draws"];
  const Bytes seed = entry["seed_iv"].hex();
  Shake128 shake(seed);
  std::uint64_t position = 0;
  for (const auto& draw : entry["draws_u16"]) {
    Shake128 moved(seed, position);
    EXPECT_EQ(shake.next16(), draw.number());
    EXPECT_EQ(moved.next16(), draw.number());
    position += 2;
    EXPECT_EQ(shake.position(), position);
    EXPECT_EQ(moved.position(), position);
  }
  for (int i = 0; i < 20'000; ++i) shake.next16();
  Shake128 far(seed, shake.position());
  EXPECT_EQ(far.next16(), shake.next16());
}

TEST(Random, BelowStaysInRangeAndReachesBothEnds) {
  SeededRandom random(3);
  bool low = false;
  bool high = false;
  for (int i = 0; i < 1000; ++i) {
    const auto value = random.below(10);
    ASSERT_LT(value, 10u);
    low |= value == 0;
    high |= value == 9;
  }
  EXPECT_TRUE(low && high);
  EXPECT_EQ(SeededRandom(7).next32(), SeededRandom(7).next32());
}

TEST(Random, SystemPoolNeverRepeatsItself) {
  SystemRandom random;
  Bytes a(700);
  Bytes b(700);
  Bytes big(9000);
  for (int i = 0; i < 20; ++i) {
    random.fill(a);
    random.fill(b);
    random.fill(big);
    ASSERT_NE(a, b);
    ASSERT_NE(Bytes(big.begin(), big.begin() + 700), a);
  }
}

}  // namespace
}  // namespace ebb::crypto
