// The text of a log line between its time stamp and its newline: pure, so that tests compare bytes. Used by log.cc
// only.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

#include "common/base/log.h"

namespace ebb::log {

/// A bounded line. Pieces that do not fit are left out whole; finish() then says so.
class LineBody {
 public:
  std::string_view text() const { return {bytes_.data(), size_}; }
  std::size_t size() const { return size_; }
  bool fits(std::size_t bytes) const { return size_ + bytes <= kRoom; }
  /// Adds all of `piece`, or nothing of it and false.
  bool add(std::string_view piece);
  /// Back to an earlier size(): a field that did not fit leaves nothing behind.
  void cut(std::size_t size);
  /// Closes the line; `mark` is added if something was cut, and always has room.
  void finish(std::string_view mark, std::string_view close);
  void remove_last();

 private:
  static constexpr std::size_t kStampBytes = 48;  // time stamp, JSON's key around it, newline
  static constexpr std::size_t kTailBytes = 32;   // finish()
  static constexpr std::size_t kRoom = kMaxLineBytes - kStampBytes - kTailBytes;
  std::array<char, kRoom + kTailBytes> bytes_;
  std::size_t size_ = 0;
  bool cut_ = false;
};

/// `[Info] [7] component: message key=value …`
void event_as_text(LineBody& line, Level level, std::string_view component, std::string_view message,
                   std::span<const RenderedField> fields);
/// `"log":"error","level":"info","component":…}`: the time stamp has opened the object.
void event_as_json(LineBody& line, Level level, std::string_view component, std::string_view message,
                   std::span<const RenderedField> fields);
/// `source status target [tag] reason email: user`, byte exact (spec/config.md 6.1).
void access_as_text(LineBody& line, const AccessLine& access);
void access_as_json(LineBody& line, const AccessLine& access);

}  // namespace ebb::log
