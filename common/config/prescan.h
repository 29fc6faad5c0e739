// The first look at a configuration text: what strict JSON forbids and people nevertheless write. spec/config.md 3.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ebb::config {

constexpr std::size_t kMaxTextBytes = 64u << 20;
constexpr std::size_t kMaxDepth = 512;
constexpr std::size_t kMaxValues = 2'000'000;  // bounds the memory of the tree built from the text

struct TextFault {
  std::size_t offset = 0;
  std::string path;  // "$.outbounds[0]": the innermost container, or the value that should stand here
  std::string message;
  std::string suggestion;
};

struct Prescan {
  std::optional<TextFault> fault;       // the text cannot be used; only the first problem is known
  bool byte_order_mark = false;         // blanked
  std::optional<std::size_t> trailing;  // offset of content behind the value; blanked
  char first = 0;                       // the value's first character, 0 without a value
};

/// Blanks comments, the byte order mark and trailing content in place (length and line ends kept) and checks the
/// grammar of everything else, so that a strict parser sees one value at unchanged offsets.
Prescan prescan(std::string& text);

}  // namespace ebb::config
