// Randomness as an argument: the kernel's in production, a repeatable one in tests.
#pragma once

#include <array>
#include <cstdint>

#include "common/base/bytes.h"

namespace ebb::crypto {

class RandomSource {
 public:
  virtual ~RandomSource() = default;
  virtual void fill(MutSpan out) = 0;

  std::uint32_t next32();
  /// Uniform in 0..bound-1, without modulo bias. `bound` > 0.
  std::uint32_t below(std::uint32_t bound);
};

/// getrandom(2) in pools of 4 KiB, so that chunk padding (0..63 bytes) costs a copy, not a system call.
/// One per thread. Used bytes are wiped. Never use one instance on both sides of a fork().
class SystemRandom final : public RandomSource {
 public:
  void fill(MutSpan out) override;

 private:
  std::array<std::uint8_t, 4096> pool_{};
  std::size_t left_ = 0;
};

/// The same bytes for the same seed, everywhere. For tests, fuzzers and benchmarks only.
class SeededRandom final : public RandomSource {
 public:
  explicit SeededRandom(std::uint64_t seed) : state_(seed) {}
  void fill(MutSpan out) override;

 private:
  std::uint64_t state_;
};

}  // namespace ebb::crypto
