#include "common/crypto/random.h"

#include <sys/random.h>

#include <algorithm>
#include <cassert>
#include <cerrno>

namespace ebb::crypto {
namespace {

void from_kernel(MutSpan out) {
  while (!out.empty()) {
    const ssize_t got = ::getrandom(out.data(), out.size(), 0);
    if (got < 0) {
      assert(errno == EINTR);
      continue;
    }
    out = out.subspan(static_cast<std::size_t>(got));
  }
}

}  // namespace

std::uint32_t RandomSource::next32() {
  std::uint8_t bytes[4];
  fill(bytes);
  return load_be32(bytes);
}

std::uint32_t RandomSource::below(std::uint32_t bound) {
  assert(bound > 0);
  const std::uint32_t uneven = (0u - bound) % bound;  // 2^32 mod bound: draws below it would favour small values
  std::uint32_t value = next32();
  while (value < uneven) value = next32();
  return value % bound;
}

void SystemRandom::fill(MutSpan out) {
  if (out.size() > pool_.size() / 4) return from_kernel(out);
  if (out.size() > left_) {
    from_kernel(pool_);
    left_ = pool_.size();
  }
  const auto from = pool_.end() - static_cast<std::ptrdiff_t>(left_);
  const auto to = from + static_cast<std::ptrdiff_t>(out.size());
  std::copy(from, to, out.begin());
  std::fill(from, to, std::uint8_t{0});
  left_ -= out.size();
}

void SeededRandom::fill(MutSpan out) {  // SplitMix64
  while (!out.empty()) {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    std::uint8_t bytes[8];
    store_be64(bytes, z ^ z >> 31);
    const std::size_t n = std::min<std::size_t>(8, out.size());
    std::copy_n(bytes, n, out.begin());
    out = out.subspan(n);
  }
}

}  // namespace ebb::crypto
