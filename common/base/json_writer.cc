#include "common/base/json_writer.h"

#include "common/base/bytes.h"

namespace ebb {

std::string json_quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      (out += '\\') += c;
    } else if (const auto byte = static_cast<std::uint8_t>(c); byte < 0x20) {
      out += "\\u00" + to_hex({&byte, 1});
    } else {
      out += c;
    }
  }
  return out + '"';
}

void JsonWriter::comma() {
  if (!first_ && !after_key_) out_ += ',';
  first_ = after_key_ = false;
}

JsonWriter& JsonWriter::open(char begin, char end) {
  comma();
  out_ += begin;
  closers_ += end;
  first_ = true;
  return *this;
}

JsonWriter& JsonWriter::end() {
  out_ += closers_.back();
  closers_.pop_back();
  first_ = false;
  return *this;
}

JsonWriter& JsonWriter::key(std::string_view name) {
  comma();
  out_ += json_quote(name);
  out_ += ':';
  after_key_ = true;
  return *this;
}

JsonWriter& JsonWriter::put(std::string_view value) {
  comma();
  out_ += value;
  return *this;
}

}  // namespace ebb
