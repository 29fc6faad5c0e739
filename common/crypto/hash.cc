#include "common/crypto/hash.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cassert>
#include <cstring>

namespace ebb::crypto {
namespace {

/// A fetched algorithm and one context per thread: EVP_Digest() would look the algorithm up, under a lock, each time.
struct Hasher {
  explicit Hasher(const char* name) : md(EVP_MD_fetch(nullptr, name, nullptr)), state(EVP_MD_CTX_new()) {
    assert(md && state);
  }
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;
  ~Hasher() {
    EVP_MD_CTX_free(state);
    EVP_MD_free(md);
  }
  void start() {
    const int ok = EVP_DigestInit_ex2(state, started ? nullptr : md, nullptr);
    assert(ok == 1);
    started = true;
  }
  void add(ConstSpan bytes) {
    if (!bytes.empty()) EVP_DigestUpdate(state, bytes.data(), bytes.size());
  }
  void finish(std::uint8_t* out) {
    const int ok = EVP_DigestFinal_ex(state, out, nullptr);
    assert(ok == 1);
  }
  EVP_MD* md;
  EVP_MD_CTX* state;
  bool started = false;
};

Hasher& md5_hasher() {
  thread_local Hasher hasher("MD5");
  return hasher;
}
Hasher& sha1_hasher() {
  thread_local Hasher hasher("SHA1");
  return hasher;
}
Hasher& sha224_hasher() {
  thread_local Hasher hasher("SHA224");
  return hasher;
}
Hasher& sha256_hasher() {
  thread_local Hasher hasher("SHA256");
  return hasher;
}

template <class Digest>
Digest digest(Hasher& hasher, Parts parts) {
  Digest out{};
  hasher.start();
  for (ConstSpan part : parts) hasher.add(part);
  hasher.finish(out.data());
  return out;
}

template <class Digest>
Digest hmac(Hasher& hasher, ConstSpan key, Parts parts) {
  constexpr std::size_t kBlock = 64;  // of MD5, SHA-1 and SHA-256 alike
  std::array<std::uint8_t, kBlock> pad{};
  if (key.size() > kBlock) {
    const Digest short_key = digest<Digest>(hasher, {key});
    std::ranges::copy(short_key, pad.begin());
  } else {
    std::ranges::copy(key, pad.begin());
  }
  for (auto& byte : pad) byte ^= 0x36;
  Digest inner{};
  hasher.start();
  hasher.add(pad);
  for (ConstSpan part : parts) hasher.add(part);
  hasher.finish(inner.data());
  for (auto& byte : pad) byte ^= 0x36 ^ 0x5C;
  return digest<Digest>(hasher, {pad, inner});
}

constexpr std::array<std::uint32_t, 256> kCrcTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value & 1 ? value >> 1 ^ 0xEDB88320u : value >> 1;
    table[i] = value;
  }
  return table;
}();

}  // namespace

Block16 md5(Parts parts) { return digest<Block16>(md5_hasher(), parts); }
Digest20 sha1(Parts parts) { return digest<Digest20>(sha1_hasher(), parts); }
Digest32 sha256(Parts parts) { return digest<Digest32>(sha256_hasher(), parts); }
Digest32 sha224_padded(Parts parts) { return digest<Digest32>(sha224_hasher(), parts); }

Block16 hmac_md5(ConstSpan key, Parts parts) { return hmac<Block16>(md5_hasher(), key, parts); }
Digest20 hmac_sha1(ConstSpan key, Parts parts) { return hmac<Digest20>(sha1_hasher(), key, parts); }
Digest32 hmac_sha256(ConstSpan key, Parts parts) { return hmac<Digest32>(sha256_hasher(), key, parts); }

std::uint32_t crc32(ConstSpan bytes) {
  std::uint32_t crc = 0xFFFFFFFFu;
  for (std::uint8_t byte : bytes) crc = kCrcTable[(crc ^ byte) & 0xFF] ^ crc >> 8;
  return ~crc;
}

std::uint32_t fnv1a(ConstSpan bytes, std::uint32_t hash) {
  for (std::uint8_t byte : bytes) hash = (hash ^ byte) * 0x01000193u;
  return hash;
}

bool equal_constant_time(ConstSpan a, ConstSpan b) {
  return a.size() == b.size() && (a.empty() || CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0);
}

}  // namespace ebb::crypto
