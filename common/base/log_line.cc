#include "common/base/log_line.h"

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cmath>
#include <cstring>

namespace ebb::log {
namespace {

constexpr std::size_t kMaxMessageBytes = 2048;  // so that fields behind a long message still have room
constexpr std::array<std::string_view, 5> kLevelNames{"Debug", "Info", "Warning", "Error", "None"};
constexpr std::array<std::string_view, 5> kLevelWords{"debug", "info", "warning", "error", "none"};

/// Length of the UTF-8 character at the front of `s`, 0 if there is none or it is a C1 control (terminals obey those).
std::size_t utf8_character(std::string_view s) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const std::size_t length = byte(0) >= 0xf0 ? 4 : byte(0) >= 0xe0 ? 3 : 2;
  if (byte(0) < 0xc2 || byte(0) > 0xf4 || s.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  if (byte(0) == 0xc2 && byte(1) < 0xa0) return 0;
  if ((byte(0) == 0xe0 && byte(1) < 0xa0) || (byte(0) == 0xed && byte(1) >= 0xa0)) return 0;  // overlong, surrogate
  if ((byte(0) == 0xf0 && byte(1) < 0x90) || (byte(0) == 0xf4 && byte(1) >= 0x90))
    return 0;  // overlong, above U+10FFFF
  return length;
}

enum class Escape : std::uint8_t { plain, word, quotes, json };  // plain: controls only; word: blanks too

/// Adds `text`, escaped; stops before the first character that does not fit and answers false.
bool add_escaped(LineBody& line, std::string_view text, Escape how, std::size_t limit = kMaxLineBytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  const std::size_t start = line.size();
  while (!text.empty()) {
    const auto c = static_cast<unsigned char>(text[0]);
    std::size_t used = 1;
    std::array<char, 6> escaped{'\\', 'x', digits[c >> 4], digits[c & 15]};
    std::string_view piece(escaped.data(), 4);
    if (how == Escape::json) {
      escaped = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
      piece = {escaped.data(), 6};
    }
    if (c >= 0x80) {
      if (const std::size_t length = utf8_character(text); length != 0) piece = text.substr(0, used = length);
    } else if (c == '\n') {
      piece = "\\n";
    } else if (how >= Escape::quotes && (c == '"' || c == '\\')) {
      escaped[1] = static_cast<char>(c);
      piece = {escaped.data(), 2};
    } else if (c >= 0x20 && c != 0x7f && !(how == Escape::word && c == ' ')) {
      piece = text.substr(0, 1);
    }
    if (line.size() - start + piece.size() > limit || !line.add(piece)) return false;
    text.remove_prefix(used);
  }
  return true;
}

bool add_quoted(LineBody& line, std::string_view text, Escape how) {
  return line.add("\"") && add_escaped(line, text, how) && line.add("\"");
}

bool bare(std::string_view text) {
  return !text.empty() &&
         std::ranges::all_of(text, [](char c) { return c > ' ' && c < 0x7f && c != '"' && c != '\\' && c != '='; });
}

template <class Number>
bool add_number(LineBody& line, Number number) {
  std::array<char, 32> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
  return line.add({digits.data(), static_cast<std::size_t>(end - digits.data())});
}

struct AddValue {
  LineBody& line;
  Escape how;  // quotes or json
  bool operator()(bool v) const { return line.add(v ? "true" : "false"); }
  bool operator()(double v) const { return std::isfinite(v) ? add_number(line, v) : line.add("null"); }
  bool operator()(std::int64_t v) const { return add_number(line, v); }
  bool operator()(std::uint64_t v) const { return add_number(line, v); }
  bool operator()(Quoted v) const { return add_quoted(line, v.bytes, how); }
  bool operator()(std::string_view v) const {
    return how == Escape::quotes && bare(v) ? line.add(v) : add_quoted(line, v, how);
  }
};

bool add_value(LineBody& line, const Value& value, Escape how) { return std::visit(AddValue{line, how}, value); }

/// `,"key":"text"`; nothing if it does not fit.
void add_member(LineBody& line, std::string_view key, const Value& value) {
  const std::size_t before = line.size();
  if (!line.add(before == 0 ? "\"" : ",\"") || !line.add(key) || !line.add("\":") ||
      !add_value(line, value, Escape::json))
    line.cut(before);
}

std::string source_text(const AccessLine& access) {
  if (access.source == nullptr) return {};
  std::string text = access.source->text();
  if (access.source_network) text.insert(0, *access.source_network == Network::tcp ? "tcp:" : "udp:");
  return text;
}

std::string target_text(const AccessLine& access) {
  return access.target != nullptr ? access.target->text() : std::string(access.target_text);
}

const RenderedField* find_connection(std::span<const RenderedField> fields) {
  const auto found = std::ranges::find(fields, std::string_view("conn"), &RenderedField::key);
  return found == fields.end() ? nullptr : &*found;
}

/// How many more there were (sparingly.h): none is not worth a person's attention.
bool says_nothing(const RenderedField& field) {
  const auto* count = std::get_if<std::uint64_t>(&field.value);
  return count != nullptr && *count == 0 && field.key == "others";
}

}  // namespace

bool LineBody::add(std::string_view piece) {
  if (!fits(piece.size())) {
    cut_ = true;
    return false;
  }
  std::memcpy(bytes_.data() + size_, piece.data(), piece.size());
  size_ += piece.size();
  return true;
}

void LineBody::cut(std::size_t size) {
  size_ = size;
  cut_ = true;
}

void LineBody::remove_last() { --size_; }

void LineBody::finish(std::string_view mark, std::string_view close) {
  for (const std::string_view piece : {cut_ ? mark : std::string_view(), close}) {
    assert(size_ + piece.size() <= bytes_.size());
    std::ranges::copy(piece, bytes_.data() + size_);
    size_ += piece.size();
  }
}

void event_as_text(LineBody& line, Level level, std::string_view component, std::string_view message,
                   std::span<const RenderedField> fields) {
  line.add("[");
  line.add(kLevelNames[static_cast<std::size_t>(level)]);
  line.add("] ");
  const RenderedField* connection = find_connection(fields);
  if (connection != nullptr) {
    line.add("[");
    add_value(line, connection->value, Escape::quotes);
    line.add("] ");
  }
  line.add(component);
  line.add(": ");
  if (!add_escaped(line, message, Escape::plain, kMaxMessageBytes)) line.cut(line.size());
  for (const RenderedField& field : fields) {
    if (&field == connection || says_nothing(field)) continue;
    const std::size_t before = line.size();
    if (!line.add(" ") || !line.add(field.key) || !line.add("=") || !add_value(line, field.value, Escape::quotes))
      line.cut(before);
  }
  line.finish(" truncated=true", "");
}

void event_as_json(LineBody& line, Level level, std::string_view component, std::string_view message,
                   std::span<const RenderedField> fields) {
  add_member(line, "log", std::string_view("error"));
  add_member(line, "level", kLevelWords[static_cast<std::size_t>(level)]);
  add_member(line, "component", component);
  line.add(",\"message\":\"");
  if (!add_escaped(line, message, Escape::json, kMaxMessageBytes)) line.cut(line.size());
  line.add("\"");
  for (const RenderedField& field : fields) add_member(line, field.key, field.value);
  line.finish(",\"truncated\":true", "}");
}

void access_as_text(LineBody& line, const AccessLine& access) {
  line.add(source_text(access));
  line.add(access.accepted ? " accepted " : " rejected ");
  const std::string target = target_text(access);
  add_escaped(line, target, Escape::word, kMaxMessageBytes);
  const auto add_part = [&](std::string_view before, std::string_view text, std::string_view after) {
    if (text.empty()) return;
    const std::size_t start = line.size();
    if (!line.add(before) || !add_escaped(line, text, Escape::plain) || !line.add(after)) line.cut(start);
  };
  add_part(" [", access.outbound_tag, "]");
  add_part(" ", access.reason, "");
  add_part(" email: ", access.user, "");
  if (line.text().ends_with(' ')) line.remove_last();  // a rejection without target and reason
}

void access_as_json(LineBody& line, const AccessLine& access) {
  add_member(line, "log", std::string_view("access"));
  add_member(line, "status", std::string_view(access.accepted ? "accepted" : "rejected"));
  const auto add_text = [&](std::string_view key, std::string_view text) {
    if (!text.empty()) add_member(line, key, text);
  };
  add_text("source", source_text(access));
  add_text("target", target_text(access));
  add_text("outbound", access.outbound_tag);
  add_text("reason", access.reason);
  add_text("user", access.user);
  line.finish(",\"truncated\":true", "}");
}

}  // namespace ebb::log
