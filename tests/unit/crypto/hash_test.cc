#include "common/crypto/hash.h"

#include <gtest/gtest.h>

#include "tests/support/vectors.h"

namespace ebb::crypto {
namespace {

TEST(Hash, MatchesThePublishedValues) {
  EXPECT_EQ(to_hex(md5({as_bytes("a"), {}, as_bytes("bc")})), "900150983cd24fb0d6963f7d28e17f72");
  EXPECT_EQ(to_hex(sha1({as_bytes("abc")})), "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(to_hex(sha256({as_bytes("ab"), as_bytes("c")})),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(to_hex(sha224_padded({as_bytes("abc")})),
            "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da700000000");
}

TEST(Hash, HmacOfRfc2202AndRfc4231) {
  EXPECT_EQ(to_hex(hmac_md5(as_bytes("Jefe"), {as_bytes("what do ya want "), as_bytes("for nothing?")})),
            "750c783e6ab0b503eaa86e310a5db738");
  EXPECT_EQ(to_hex(hmac_sha1(as_bytes("Jefe"), {as_bytes("what do ya want for nothing?")})),
            "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
  EXPECT_EQ(to_hex(hmac_sha256(as_bytes("Jefe"), {as_bytes("what do ya want for nothing?")})),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  const Bytes long_key(131, 0xaa);
  EXPECT_EQ(to_hex(hmac_sha256(long_key, {as_bytes("Test Using Larger Than Block-Size Key - Hash Key First")})),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST(Hash, Checksums) {
  EXPECT_EQ(crc32(as_bytes("123456789")), 0xCBF43926u);
  for (const auto& entry : test::load_vectors("vmess/primitives.json")["fnv1a"]) {
    std::uint8_t wire[4];
    store_be32(wire, fnv1a(entry["data"].hex()));
    EXPECT_EQ(to_hex(wire), entry["fnv1a32_be"].text());
  }
  EXPECT_EQ(fnv1a(as_bytes("bar"), fnv1a(as_bytes("foo"))), fnv1a(as_bytes("foobar")));
}

TEST(Hash, ConstantTimeComparison) {
  EXPECT_TRUE(equal_constant_time(as_bytes("abc"), as_bytes("abc")));
  EXPECT_FALSE(equal_constant_time(as_bytes("abc"), as_bytes("abd")));
  EXPECT_FALSE(equal_constant_time(as_bytes("abc"), as_bytes("ab")));
  EXPECT_TRUE(equal_constant_time({}, {}));
}

}  // namespace
}  // namespace ebb::crypto
