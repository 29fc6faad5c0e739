// Positions and words: what messages about a text need.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ebb::config {

struct LineColumn {
  std::uint32_t line = 1;
  std::uint32_t column = 1;  // Unicode characters; a byte order mark counts as none
};

/// Walks a text once, forwards: ask for offsets in ascending order.
class PositionSweep {
 public:
  explicit PositionSweep(std::string_view text);
  LineColumn at(std::size_t offset);

 private:
  std::string_view text_;
  std::size_t done_ = 0;
  LineColumn now_;
};

/// One position; linear in `offset`.
LineColumn locate(std::string_view text, std::size_t offset);

std::string lower(std::string_view text);
bool same_word(std::string_view a, std::string_view b);  // ASCII case folded

/// Text in double quotes, safe to print: control characters escaped, cut after 60 characters.
std::string quoted(std::string_view text);
/// The first four characters and an ellipsis: for ids and passwords.
std::string masked(std::string_view secret);

/// The candidates nearest to `word` within two edits (case folded), best first; at most two.
std::vector<std::string> nearest(std::string_view word, std::span<const std::string_view> candidates);
/// `did you mean "a" or "b"?`, or "" when nothing is near.
std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates);
std::string did_you_mean(std::string_view word, std::initializer_list<std::string_view> candidates);

}  // namespace ebb::config
