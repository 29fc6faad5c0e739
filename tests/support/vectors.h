// Test vectors as a small JSON tree. simdjson stays in the .cc, so a test that reads vectors compiles quickly.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/bytes.h"

namespace ebb::test {

/// One JSON value. Asking for what is not there, or not of that kind, throws std::runtime_error with the path: the
/// test fails with a message that names it.
class Json {
 public:
  enum class Kind { null, boolean, number, real, text, array, object };

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::null; }
  bool has(std::string_view key) const;                 ///< object with this key, whose value is not null
  const Json& operator[](std::string_view key) const&;  ///< object member
  const Json& operator[](const char* key) const& { return (*this)[std::string_view(key)]; }
  /// By value from a temporary, so that `for (auto& v : load_vectors(...)["vectors"])` keeps what it walks over.
  Json operator[](std::string_view key) && { return Json(static_cast<const Json&>(*this)[key]); }
  Json operator[](const char* key) && { return Json(static_cast<const Json&>(*this)[std::string_view(key)]); }
  const Json& at(std::size_t index) const;  ///< array element
  const std::vector<Json>& items() const;   ///< array elements
  const std::map<std::string, Json, std::less<>>& members() const;
  std::size_t size() const { return kind_ == Kind::object ? members_.size() : items_.size(); }

  bool boolean() const;
  std::int64_t number() const;  ///< integers; values above 2^63 are wrapped
  double real() const;          ///< any number
  const std::string& text() const;
  Bytes hex() const;  ///< text of hex digits -> bytes

  auto begin() const { return items().begin(); }
  auto end() const { return items().end(); }

 private:
  friend struct JsonBuilder;
  [[noreturn]] void fail(std::string_view wanted) const;

  Kind kind_ = Kind::null;
  std::int64_t number_ = 0;
  double real_ = 0;
  std::string text_;
  std::vector<Json> items_;
  std::map<std::string, Json, std::less<>> members_;
  std::string path_;  // "bad.json > vectors[3] > name", for messages
};

/// Parses tests/vectors/`name`, for example "vmess/bad.json". Throws std::runtime_error when it cannot.
Json load_vectors(std::string_view name);
Json parse_json(std::string_view text);

}  // namespace ebb::test
