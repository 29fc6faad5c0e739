#include "common/config/prescan.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <utility>

#include "common/config/text.h"

namespace ebb::config {
namespace {

struct Unusual {
  std::string_view bytes;
  const char* name;
  const char* instead;
};
constexpr std::array kUnusual{
    Unusual{"\xE2\x80\x9C", "typographic quote U+201C", "use a plain \" character"},
    Unusual{"\xE2\x80\x9D", "typographic quote U+201D", "use a plain \" character"},
    Unusual{"\xE2\x80\x9E", "typographic quote U+201E", "use a plain \" character"},
    Unusual{"\xE2\x80\x98", "typographic quote U+2018", "use a plain \" character"},
    Unusual{"\xE2\x80\x99", "typographic quote U+2019", "use a plain \" character"},
    Unusual{"\xC2\xAB", "typographic quote U+00AB", "use a plain \" character"},
    Unusual{"\xC2\xBB", "typographic quote U+00BB", "use a plain \" character"},
    Unusual{"\xEF\xBC\x82", "full-width quote U+FF02", "use a plain \" character"},
    Unusual{"\xEF\xBC\x8C", "full-width comma U+FF0C", "use a plain , character"},
    Unusual{"\xEF\xBC\x9A", "full-width colon U+FF1A", "use a plain : character"},
    Unusual{"\xC2\xA0", "no-break space U+00A0", "use a plain blank"},
    Unusual{"\xE3\x80\x80", "full-width space U+3000", "use a plain blank"},
    Unusual{"\xE2\x80\x8B", "zero-width space U+200B", "remove it"},
    Unusual{"\xEF\xBB\xBF", "byte order mark inside the file", "remove it"},
};
constexpr std::array<std::string_view, 9> kSecretKeys{"id",   "password", "pass",       "psk",        "key",
                                                      "seed", "secret",   "privateKey", "certificate"};

bool digit(char c) { return c >= '0' && c <= '9'; }
bool hex_digit(char c) { return digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

/// Length of the UTF-8 character at the front, 0 when it is not one (overlong forms and surrogates included).
std::size_t utf8_length(std::string_view s) {
  const auto byte = [&](std::size_t i) -> unsigned { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
  const auto next = [&](std::size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const unsigned a = byte(0);
  if (a < 0x80) return 1;
  if (a >= 0xC2 && a <= 0xDF) return next(1) ? 2 : 0;
  if (a >= 0xE0 && a <= 0xEF) {
    if (!next(1) || !next(2) || (a == 0xE0 && byte(1) < 0xA0) || (a == 0xED && byte(1) > 0x9F)) return 0;
    return 3;
  }
  if (a >= 0xF0 && a <= 0xF4) {
    if (!next(1) || !next(2) || !next(3) || (a == 0xF0 && byte(1) < 0x90) || (a == 0xF4 && byte(1) > 0x8F)) return 0;
    return 4;
  }
  return 0;
}

class Scanner {
 public:
  explicit Scanner(std::string& text) : text_(text) {}

  Prescan run() {
    if (const auto fault = refuse_whole_text()) {
      out_.fault = *fault;
      return std::move(out_);
    }
    if (text_.starts_with("\xEF\xBB\xBF")) {
      out_.byte_order_mark = true;
      blank(0, 3);
      at_ = 3;
    }
    if (scan_value() && skip_blanks() && at_ < text_.size()) {
      out_.trailing = at_;
      blank(at_, text_.size());
    }
    return std::move(out_);
  }

 private:
  struct Frame {
    bool object = false;
    std::size_t open = 0;                              // offset of the bracket
    std::pair<std::size_t, std::size_t> key{};         // the current member's name, raw
    std::size_t index = 0;                             // the current element
    std::pair<std::size_t, std::size_t> last_value{};  // the value just read, for "add a comma after"
  };

  std::optional<TextFault> refuse_whole_text() const {
    if (text_.size() > kMaxTextBytes) return TextFault{0, "$", "file is larger than 64 MiB", "is this the right file?"};
    const auto starts = [&](std::string_view mark) { return std::string_view(text_).starts_with(mark); };
    if (starts("\xFF\xFE") || starts("\xFE\xFF") || (text_.size() >= 2 && (text_[0] == '\0') != (text_[1] == '\0'))) {
      return TextFault{0, "$", "file is UTF-16, not UTF-8", "save it as UTF-8 without a byte order mark"};
    }
    return std::nullopt;
  }

  void blank(std::size_t from, std::size_t to) {
    for (; from < to; ++from) {
      if (text_[from] != '\n' && text_[from] != '\r') text_[from] = ' ';
    }
  }

  bool fail(std::size_t offset, std::string message, std::string suggestion = {}, bool value_path = false) {
    std::string path = "$";
    for (std::size_t i = 0; i < stack_.size(); ++i) {
      const Frame& frame = stack_[i];
      if (i + 1 == stack_.size() && !value_path) break;
      path += frame.object ? "." + text_.substr(frame.key.first, std::min<std::size_t>(frame.key.second, 60))
                           : "[" + std::to_string(frame.index) + "]";
    }
    out_.fault = TextFault{offset, std::move(path), std::move(message), std::move(suggestion)};
    return false;
  }

  /// Skips blanks and blanks comments. False after a fault.
  bool skip_blanks() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
        ++at_;
      } else if (c != '#' && c != '/') {
        break;
      } else if (c == '#' || text_.compare(at_, 2, "//") == 0) {
        const std::size_t end = std::min(text_.find('\n', at_), text_.size());
        // A carriage return ends no comment in V2Ray either, but it must not survive as text.
        blank(at_, end);
        at_ = end;
      } else if (text_.compare(at_, 2, "/*") == 0) {
        const std::size_t end = text_.find("*/", at_ + 2);
        if (end == std::string::npos) return fail(at_, "block comment opened here is never closed", "add */");
        blank(at_, end + 2);
        at_ = end + 2;
      } else {
        break;
      }
    }
    return true;
  }

  bool unexpected(std::string_view wanted, bool value_path) {
    if (at_ >= text_.size()) return ended();
    const std::string_view rest = std::string_view(text_).substr(at_);
    for (const auto& unusual : kUnusual) {
      if (rest.starts_with(unusual.bytes)) return fail(at_, unusual.name, unusual.instead, value_path);
    }
    if (rest.front() == '\'') return fail(at_, "strings and keys need double quotes", "replace ' by \"", value_path);
    if (utf8_length(rest) == 0) return fail(at_, "invalid UTF-8", "save the file as UTF-8", value_path);
    return fail(at_, "expected " + std::string(wanted) + ", found " + quoted(rest.substr(0, utf8_length(rest))), {},
                value_path);
  }

  bool ended() {
    if (stack_.empty()) return fail(0, "file is empty", "did you pass the right file?");
    const Frame& frame = stack_.back();
    const auto where = locate(text_, frame.open);
    const std::string position =
        " that starts at line " + std::to_string(where.line) + " column " + std::to_string(where.column);
    return fail(text_.size(), "file ends inside the " + std::string(frame.object ? "object" : "array") + position,
                std::string("add the missing ") + (frame.object ? "\"}\"" : "\"]\""));
  }

  bool scan_string(bool value) {
    const std::size_t open = at_++;
    for (;;) {
      if (at_ >= text_.size()) return fail(open, "string opened here is never closed", "add a closing \"", value);
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') return ++at_, true;
      if (c == '\\') {
        if (!scan_escape(value)) return false;
      } else if (c == '\n' || c == '\r') {
        return fail(at_, "string is not closed on its line", "add a closing \", or write a line break as \\n", value);
      } else if (c < 0x20) {
        return fail(at_, "raw control character in a string", c == '\t' ? "write \\t" : "remove it", value);
      } else if (c < 0x80) {
        ++at_;
      } else {
        const std::size_t length = utf8_length(std::string_view(text_).substr(at_));
        if (length == 0) return fail(at_, "invalid UTF-8 in a string", "save the file as UTF-8", value);
        at_ += length;
      }
    }
  }

  /// The four hex digits of a \u escape at `at`; -1 when they are not there.
  int unicode_escape(std::size_t at) const {
    if (text_.compare(at, 2, "\\u") != 0 || text_.size() < at + 6) return -1;
    for (std::size_t i = at + 2; i < at + 6; ++i) {
      if (!hex_digit(text_[i])) return -1;
    }
    return std::stoi(text_.substr(at + 2, 4), nullptr, 16);
  }

  bool scan_escape(bool value) {
    const char kind = at_ + 1 < text_.size() ? text_[at_ + 1] : '\0';
    if (kind != 'u') {
      if (kind == '\0' || std::strchr("\"\\/bfnrt", kind) == nullptr) {
        return fail(at_, "unknown escape in a string", "write a backslash as \\\\", value);
      }
      at_ += 2;
      return true;
    }
    const int high = unicode_escape(at_);
    if (high < 0) return fail(at_, "\\u needs four hex digits", {}, value);
    if (high >= 0xD800 && high <= 0xDFFF) {
      const int low = unicode_escape(at_ + 6);
      if (high > 0xDBFF || low < 0xDC00 || low > 0xDFFF) return fail(at_, "half of a surrogate pair", {}, value);
      at_ += 6;
    }
    at_ += 6;
    return true;
  }

  bool scan_number() {
    const std::size_t begin = at_;
    const auto digits = [&] {
      const std::size_t from = at_;
      while (at_ < text_.size() && digit(text_[at_])) ++at_;
      return at_ > from;
    };
    if (text_[at_] == '-') ++at_;
    const bool zero = at_ < text_.size() && text_[at_] == '0';
    bool good = digits() && !(zero && at_ - begin > (text_[begin] == '-' ? 2u : 1u));
    if (good && at_ < text_.size() && text_[at_] == '.') ++at_, good = digits();
    if (good && at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
      ++at_;
      if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
      good = digits();
    }
    if (good && at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) || text_[at_] == '.')) {
      good = false;
    }
    if (good) return true;
    return fail(begin, "this is not a JSON number", "write a plain decimal number, or put it in double quotes", true);
  }

  bool scan_word() {
    const std::size_t begin = at_;
    while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) || text_[at_] == '_')) ++at_;
    const auto word = std::string_view(text_).substr(begin, at_ - begin);
    if (word == "true" || word == "false" || word == "null") return true;
    if (stack_.empty()) {
      return fail(begin, "this does not look like JSON (starts with a bare word); YAML/TOML are not supported",
                  "convert the file to JSON");
    }
    return fail(begin, "strings need double quotes", "put the word in double quotes", true);
  }

  /// The innermost value was read; closes brackets, eats commas and keys until the next value. False: done or fault.
  bool advance() {
    for (;;) {
      if (!skip_blanks()) return false;
      if (stack_.empty()) return false;
      Frame& frame = stack_.back();
      const char close = frame.object ? '}' : ']';
      if (at_ < text_.size() && text_[at_] == close) {
        close_bracket();
        continue;
      }
      if (at_ >= text_.size()) return ended();
      if (text_[at_] != ',') return missing_comma(frame, close);
      ++at_;
      ++frame.index;
      if (!skip_blanks()) return false;
      if (at_ < text_.size() && text_[at_] == close) {
        return fail(at_, std::string("trailing comma before \"") + close + "\"", "remove the comma");
      }
      return !frame.object || scan_key();
    }
  }

  void close_bracket() {
    const std::size_t open = stack_.back().open;
    ++at_;
    stack_.pop_back();
    if (!stack_.empty()) stack_.back().last_value = {open, at_ - open};
  }

  bool missing_comma(const Frame& frame, char close) {
    const char c = text_[at_];
    const bool starts_value =
        c == '"' || c == '{' || c == '[' || c == '-' || std::isalnum(static_cast<unsigned char>(c));
    if (!starts_value) {
      return unexpected(std::string("\",\" or \"") + close + "\"", false);
    }
    const std::string key = text_.substr(frame.key.first, frame.key.second);
    const auto [begin, length] = frame.last_value;
    const auto line = locate(text_, begin + length).line;
    const bool secret = frame.object && std::any_of(kSecretKeys.begin(), kSecretKeys.end(),
                                                    [&](std::string_view s) { return same_word(s, key); });
    std::string after = text_[begin] == '{' ? "\"}\"" : text_[begin] == '[' ? "\"]\"" : text_.substr(begin, length);
    if (secret || after.size() > 60) after = "the value of " + quoted(key);
    std::string message = std::string("expected \",\" or \"") + close + "\"";
    if (frame.object) message += " after the value of " + quoted(key);
    return fail(at_, std::move(message), "add a comma after " + after + " on line " + std::to_string(line));
  }

  bool scan_key() {
    if (at_ < text_.size() && text_[at_] != '"') {
      const char c = text_[at_];
      if (std::isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '$') {
        return fail(at_, "keys need double quotes", "write \"key\": value");
      }
      return unexpected("a key in double quotes", false);
    }
    if (at_ >= text_.size()) return ended();
    const std::size_t begin = at_;
    if (!scan_string(false)) return false;
    stack_.back().key = {begin + 1, at_ - begin - 2};
    if (!skip_blanks()) return false;
    if (at_ >= text_.size()) return ended();
    if (text_[at_] != ':') return unexpected("\":\" after the key", true);
    ++at_;
    return skip_blanks();
  }

  bool open_bracket(bool object) {
    if (stack_.size() >= kMaxDepth) return fail(at_, "nested deeper than 512 levels");
    stack_.push_back({object, at_++, {}, 0, {}});
    return skip_blanks();
  }

  bool scan_scalar() {
    const std::size_t begin = at_;
    const char c = text_[at_];
    bool good = false;
    if (c == '"') {
      good = scan_string(true);
    } else if (c == '-' || digit(c)) {
      good = scan_number();
    } else if (std::isalpha(static_cast<unsigned char>(c))) {
      good = scan_word();
    } else {
      good = unexpected("a value", true);
    }
    if (good && !stack_.empty()) stack_.back().last_value = {begin, at_ - begin};
    return good;
  }

  /// The whole value, brackets and all, without recursion.
  bool scan_value() {
    if (!skip_blanks()) return false;
    if (at_ >= text_.size()) return ended();
    out_.first = text_[at_];
    for (std::size_t values = 0;; ++values) {
      if (values > kMaxValues) return fail(at_, "more than 2000000 values in one file");
      if (at_ >= text_.size()) return ended();
      const char c = text_[at_];
      if (c == '{' || c == '[') {
        if (!open_bracket(c == '{')) return false;
        if (at_ >= text_.size()) return ended();
        if (text_[at_] == (c == '{' ? '}' : ']')) {
          close_bracket();
        } else if (c == '{' ? scan_key() : true) {
          continue;
        } else {
          return false;
        }
      } else if (!scan_scalar()) {
        return false;
      }
      if (!advance()) return !out_.fault;
    }
  }

  std::string& text_;
  std::size_t at_ = 0;
  std::vector<Frame> stack_;
  Prescan out_;
};

}  // namespace

Prescan prescan(std::string& text) { return Scanner(text).run(); }

}  // namespace ebb::config
