// Writes compact JSON: status, answers, log objects. Reading JSON is simdjson's business.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ebb {

/// `text` as a JSON string, quotes included. Control characters are escaped; bytes above 0x7f pass.
std::string json_quote(std::string_view text);

/// The caller closes what it opens and gives keys inside objects only:
///   JsonWriter w;  w.object().key("a").number(1).key("b").array().text("x").end().end();
class JsonWriter {
 public:
  JsonWriter& object() { return open('{', '}'); }
  JsonWriter& array() { return open('[', ']'); }
  JsonWriter& end();
  JsonWriter& key(std::string_view name);
  JsonWriter& text(std::string_view value) { return put(json_quote(value)); }
  JsonWriter& number(std::int64_t value) { return put(std::to_string(value)); }
  JsonWriter& boolean(bool value) { return put(value ? "true" : "false"); }
  JsonWriter& null() { return put("null"); }
  /// JSON that somebody else wrote.
  JsonWriter& raw(std::string_view json) { return put(json); }
  const std::string& str() const { return out_; }

 private:
  JsonWriter& open(char begin, char end);
  JsonWriter& put(std::string_view value);
  void comma();

  std::string out_;
  std::string closers_;
  bool first_ = true;
  bool after_key_ = false;
};

}  // namespace ebb
