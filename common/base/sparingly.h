// Lines in the log whose number somebody outside decides.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include "common/base/time.h"

namespace ebb {

/// Lines that strangers can cause: so many a second are said, the others are counted.
class Sparingly {
 public:
  /// For what also happens in ordinary life, several at a time: each is said until it is a flood.
  static constexpr unsigned kEach = 16;

  /// How many were kept quiet since the last one that was said; nullopt: this one is to be kept quiet. `most`: said in
  /// a second.
  std::optional<std::uint64_t> say(TimePoint now, unsigned most = 1) {
    if (now >= next_) {
      next_ = now + std::chrono::seconds(1);
      said_ = 0;
    }
    if (said_ >= most) {
      ++quiet_;
      return std::nullopt;
    }
    ++said_;
    return std::exchange(quiet_, 0);
  }

 private:
  TimePoint next_{};
  unsigned said_ = 0;
  std::uint64_t quiet_ = 0;
};

}  // namespace ebb
