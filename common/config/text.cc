#include "common/config/text.h"

#include <algorithm>
#include <array>
#include <tuple>

#include "common/base/bytes.h"

namespace ebb::config {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::size_t kLongestWord = 40;  // longer words are not typing slips of a key

bool continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }
char lower_char(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::size_t edits(std::string_view a, std::string_view b) {
  std::array<std::size_t, kLongestWord + 1> row{};
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      const std::size_t swap = diagonal + (lower_char(a[i - 1]) == lower_char(b[j - 1]) ? 0 : 1);
      row[j] = std::min({above + 1, row[j - 1] + 1, swap});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

PositionSweep::PositionSweep(std::string_view text) : text_(text) {
  if (text_.starts_with(kByteOrderMark)) done_ = kByteOrderMark.size();
}

LineColumn PositionSweep::at(std::size_t offset) {
  for (const std::size_t end = std::min(offset, text_.size()); done_ < end; ++done_) {
    if (text_[done_] == '\n') {
      now_ = {now_.line + 1, 1};
    } else if (!continuation(text_[done_])) {
      ++now_.column;
    }
  }
  return now_;
}

LineColumn locate(std::string_view text, std::size_t offset) { return PositionSweep(text).at(offset); }

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), lower_char);
  return out;
}

bool same_word(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower_char(x) == lower_char(y); });
}

std::string quoted(std::string_view text) {
  constexpr std::size_t kMost = 60;
  std::string out = "\"";
  std::size_t characters = 0;
  for (const char c : text) {
    if (!continuation(c) && ++characters > kMost) return out + "…\"";
    if (const auto byte = static_cast<std::uint8_t>(c); byte < 0x20 || byte == 0x7F) {
      out += "\\x" + to_hex({&byte, 1});
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string masked(std::string_view secret) {
  constexpr std::size_t kShown = 4;
  std::size_t end = 0;
  for (std::size_t characters = 0; end < secret.size(); ++end) {
    if (!continuation(secret[end]) && ++characters > kShown) break;
  }
  return std::string(secret.substr(0, end)) + "…";
}

std::vector<std::string> nearest(std::string_view word, std::span<const std::string_view> candidates) {
  constexpr std::size_t kMostEdits = 2;
  std::vector<std::tuple<std::size_t, std::size_t, std::string>> found;  // distance, order, word
  if (word.size() > kLongestWord) return {};
  for (const auto candidate : candidates) {
    if (candidate.empty() || candidate.size() > kLongestWord) continue;
    const std::size_t distance = edits(word, candidate);
    // A short word is near to everything: require that more than half of it stays.
    if (distance <= kMostEdits && distance * 2 < std::max(word.size(), candidate.size())) {
      found.emplace_back(distance, found.size(), candidate);
    }
  }
  std::sort(found.begin(), found.end());
  std::vector<std::string> out;
  for (auto& [distance, order, candidate] : found) {
    if (out.size() == 2) break;
    out.push_back(std::move(candidate));
  }
  return out;
}

std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates) {
  const auto near = nearest(word, candidates);
  if (near.empty()) return {};
  std::string out = "did you mean " + quoted(near[0]);
  if (near.size() > 1) out += " or " + quoted(near[1]);
  return out + "?";
}

std::string did_you_mean(std::string_view word, std::initializer_list<std::string_view> candidates) {
  return did_you_mean(word, std::span(candidates.begin(), candidates.size()));
}

}  // namespace ebb::config
