#include "tests/support/vectors.h"

#include <simdjson.h>

#include <stdexcept>

namespace ebb::test {

struct JsonBuilder {
  static Json build(simdjson::dom::element element, std::string path) {
    using simdjson::dom::element_type;
    Json out;
    out.path_ = std::move(path);
    switch (element.type()) {
      case element_type::NULL_VALUE: break;
      case element_type::BOOL:
        out.kind_ = Json::Kind::boolean;
        out.number_ = bool(element);
        break;
      case element_type::INT64:
        out.kind_ = Json::Kind::number;
        out.number_ = std::int64_t(element);
        break;
      case element_type::UINT64:
        out.kind_ = Json::Kind::number;
        out.number_ = static_cast<std::int64_t>(std::uint64_t(element));
        break;
      case element_type::DOUBLE:
        out.kind_ = Json::Kind::real;
        out.real_ = double(element);
        break;
      case element_type::STRING:
        out.kind_ = Json::Kind::text;
        out.text_ = std::string(std::string_view(element));
        break;
      case element_type::ARRAY: {
        out.kind_ = Json::Kind::array;
        for (simdjson::dom::element item : simdjson::dom::array(element)) {
          out.items_.push_back(build(item, out.path_ + "[" + std::to_string(out.items_.size()) + "]"));
        }
        break;
      }
      case element_type::OBJECT: {
        out.kind_ = Json::Kind::object;
        for (auto field : simdjson::dom::object(element)) {
          std::string key(field.key);
          std::string below = out.path_ + " > " + key;
          out.members_.emplace(std::move(key), build(field.value, std::move(below)));
        }
        break;
      }
    }
    return out;
  }
};

void Json::fail(std::string_view wanted) const {
  throw std::runtime_error("test vector " + path_ + ": no " + std::string(wanted));
}

bool Json::has(std::string_view key) const {
  const auto found = members_.find(key);
  return found != members_.end() && !found->second.is_null();
}

const Json& Json::operator[](std::string_view key) const& {
  const auto found = members_.find(key);
  if (found == members_.end()) fail(key);
  return found->second;
}

const Json& Json::at(std::size_t index) const {
  if (index >= items_.size()) fail("element " + std::to_string(index));
  return items_[index];
}

const std::vector<Json>& Json::items() const {
  if (kind_ != Kind::array) fail("array");
  return items_;
}

const std::map<std::string, Json, std::less<>>& Json::members() const {
  if (kind_ != Kind::object) fail("object");
  return members_;
}

bool Json::boolean() const {
  if (kind_ != Kind::boolean) fail("boolean");
  return number_ != 0;
}

std::int64_t Json::number() const {
  if (kind_ != Kind::number) fail("integer");
  return number_;
}

double Json::real() const {
  if (kind_ == Kind::number) return static_cast<double>(number_);
  if (kind_ != Kind::real) fail("number");
  return real_;
}

const std::string& Json::text() const {
  if (kind_ != Kind::text) fail("text");
  return text_;
}

Bytes Json::hex() const {
  auto bytes = from_hex(text());
  if (!bytes) fail("hexadecimal text");
  return *std::move(bytes);
}

Json load_vectors(std::string_view name) {
  const std::string path = "tests/vectors/" + std::string(name);
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (const auto error = parser.load(path).get(root)) {
    throw std::runtime_error(path + ": " + simdjson::error_message(error));
  }
  return JsonBuilder::build(root, std::string(name));
}

Json parse_json(std::string_view text) {
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (const auto error = parser.parse(text.data(), text.size()).get(root)) {
    throw std::runtime_error(std::string("JSON: ") + simdjson::error_message(error));
  }
  return JsonBuilder::build(root, "$");
}

}  // namespace ebb::test
