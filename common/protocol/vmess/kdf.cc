#include "common/protocol/vmess/kdf.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <span>

namespace ebb::vmess {
namespace {

constexpr std::size_t kBlock = 64;  // at every level
constexpr std::size_t kMaxLevels = 8;
constexpr std::size_t kMaxKey = 64;

/// What reaches the lowest level: one pad block per level, then the message. Never longer than this.
struct Message {
  std::array<std::uint8_t, kMaxLevels * kBlock + kMaxKey> bytes;
  std::size_t size = 0;
  void add(ConstSpan more) {
    assert(size + more.size() <= bytes.size());
    std::ranges::copy(more, bytes.begin() + static_cast<std::ptrdiff_t>(size));
    size += more.size();
  }
  void add_pad(ConstSpan salt, std::uint8_t mask) {
    assert(salt.size() <= kBlock && size + kBlock <= bytes.size());
    for (std::size_t i = 0; i < kBlock; ++i) {
      bytes[size + i] = static_cast<std::uint8_t>((i < salt.size() ? salt[i] : 0) ^ mask);
    }
    size += kBlock;
  }
};

/// H_n(message) with n = path.size(); `prefix` holds the pads that the levels above have put before the message.
Digest32 nested(std::span<const ConstSpan> path, const Message& prefix, ConstSpan message) {
  if (path.empty()) {
    return crypto::hmac_sha256(as_bytes("VMess AEAD KDF"), {ConstSpan(prefix.bytes).first(prefix.size), message});
  }
  const ConstSpan salt = path.back();
  const auto below = path.first(path.size() - 1);
  // F(opad || F(ipad || prefix || message)). The pads of this level go in front of what the levels above added.
  Message inner;
  inner.add_pad(salt, 0x36);
  inner.add(ConstSpan(prefix.bytes).first(prefix.size));
  const Digest32 digest = nested(below, inner, message);
  Message outer;
  outer.add_pad(salt, 0x5C);
  return nested(below, outer, digest);
}

}  // namespace

Digest32 kdf(ConstSpan key, std::span<const ConstSpan> path) {
  assert(path.size() <= kMaxLevels);
  return nested(path, Message{}, key);
}

Block16 kdf16(ConstSpan key, crypto::Parts path) {
  const Digest32 full = kdf(key, path);
  Block16 out;
  std::copy_n(full.begin(), out.size(), out.begin());
  return out;
}

Nonce kdf12(ConstSpan key, crypto::Parts path) {
  const Digest32 full = kdf(key, path);
  Nonce out;
  std::copy_n(full.begin(), out.size(), out.begin());
  return out;
}

}  // namespace ebb::vmess
