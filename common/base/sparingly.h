// Lines in the log whose number somebody outside decides.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include "common/base/time.h"

namespace ebb {

/// Warnings that strangers can cause: one a second is said, the others are counted.
class Sparingly {
 public:
  /// How many were kept quiet since the last one that was said; nullopt: this one is to be kept quiet.
  std::optional<std::uint64_t> say(TimePoint now) {
    if (now < next_) {
      ++quiet_;
      return std::nullopt;
    }
    next_ = now + std::chrono::seconds(1);
    return std::exchange(quiet_, 0);
  }

 private:
  TimePoint next_{};
  std::uint64_t quiet_ = 0;
};

}  // namespace ebb
