#include "common/config/reader.h"

#include <algorithm>
#include <charconv>
#include <tuple>

#include "common/config/text.h"

namespace ebb::config {
namespace {

constexpr std::size_t kMostFindings = 500;  // a file with more is not read by a person

std::string type_suggestion(const Node& node, Kind wanted) {
  if (wanted == Kind::array && node.kind == Kind::object) return "wrap it in [ ]";
  if (wanted == Kind::string && node.kind == Kind::number) return "write \"" + std::string(node.text) + "\"";
  if (node.kind == Kind::string && (wanted == Kind::number || wanted == Kind::boolean)) return "remove the quotes";
  if (wanted == Kind::boolean && node.kind == Kind::number) return "write true or false";
  return {};
}

bool comment_key(std::string_view key) {
  constexpr std::string_view kComments[] = {"remark", "remarks", "ps", "v", "comment", "$schema"};
  return key.starts_with('_') || key.starts_with("//") || key.starts_with('#') ||
         std::find(std::begin(kComments), std::end(kComments), key) != std::end(kComments);
}

}  // namespace

void Report::add(Finding finding) {
  refused_ = refused_ || finding.diagnostic.refuses;
  finding.order = findings_.size();
  if (findings_.size() < kMostFindings) findings_.push_back(std::move(finding));
}

void Report::refuse(std::string_view code, const Place& place, std::string message, std::string suggestion) {
  Diagnostic out{Severity::error,      true, std::string(code), {}, place.path, 1, 1, std::move(message),
                 std::move(suggestion)};
  // The message that explains why we stop must not be crowded out by warnings.
  if (!refused_ && findings_.size() >= kMostFindings) findings_.pop_back();
  add({place.file, place.offset, 0, std::move(out)});
}

void Report::note(Severity severity, std::string_view code, const Place& place, std::string message,
                  std::string suggestion) {
  Diagnostic out{severity, false, std::string(code), {}, place.path, 1, 1, std::move(message), std::move(suggestion)};
  add({place.file, place.offset, 0, std::move(out)});
}

std::vector<Diagnostic> Report::finish(const std::vector<SourceFile>& files) {
  std::sort(findings_.begin(), findings_.end(), [](const Finding& a, const Finding& b) {
    return std::tuple(a.file, a.offset, a.order) < std::tuple(b.file, b.offset, b.order);
  });
  std::vector<PositionSweep> sweeps;
  for (const auto& file : files) sweeps.emplace_back(file.text);
  std::vector<Diagnostic> out;
  for (auto& finding : findings_) {
    if (finding.file < files.size()) {
      const auto [line, column] = sweeps[finding.file].at(finding.offset);
      finding.diagnostic.line = line;
      finding.diagnostic.column = column;
      finding.diagnostic.file = files[finding.file].name;
    }
    out.push_back(std::move(finding.diagnostic));
  }
  findings_.clear();
  return out;
}

Value Value::member(const Node& node) const {
  return Value(*reading_, node, reading_->steps.emplace_back(step_, node.key, std::nullopt));
}

bool Value::expect(Kind kind, std::string_view what) const {
  if (node_->kind == kind) return true;
  refuse("TYPE", "expected " + std::string(what) + ", found " + std::string(name_of(node_->kind)),
         type_suggestion(*node_, kind));
  return false;
}

std::optional<std::string> Value::string() const {
  if (!expect(Kind::string, "a string")) return std::nullopt;
  return std::string(node_->text);
}

std::optional<bool> Value::boolean() const {
  if (!expect(Kind::boolean, "true or false")) return std::nullopt;
  return node_->boolean;
}

std::optional<std::int64_t> Value::integer(std::int64_t low, std::int64_t high) const {
  if (!expect(Kind::number, "a number")) return std::nullopt;
  const std::string text(node_->text);
  if (text.find_first_of(".eE") != std::string::npos) {
    refuse("TYPE", "expected a whole number, found " + text, "write it without \".\" and exponent");
    return std::nullopt;
  }
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || value < low || value > high) {
    refuse("VALUE", (text.size() > 30 ? "the number" : text) + " is outside " + std::to_string(low) + "-" +
                        std::to_string(high));
    return std::nullopt;
  }
  return value;
}

std::vector<Value> Value::elements(std::string_view what) const {
  std::vector<Value> out;
  if (!expect(Kind::array, what)) return out;
  out.reserve(node_->items.size());
  for (std::size_t i = 0; i < node_->items.size(); ++i) {
    if (node_->items[i].kind == Kind::null) continue;
    out.push_back(Value(*reading_, node_->items[i], reading_->steps.emplace_back(step_, std::string_view(), i)));
  }
  return out;
}

std::vector<std::pair<std::string, Value>> Value::members(std::string_view what) const {
  std::vector<std::pair<std::string, Value>> out;
  if (!expect(Kind::object, what)) return out;
  for (const Node& item : node_->items) {
    if (item.kind != Kind::null) out.emplace_back(item.key, member(item));
  }
  return out;
}

Fields::Fields(Value object, std::string_view what) : object_(object), valid_(object_.expect(Kind::object, what)) {
  constexpr std::size_t kUsual = 32;  // a rule asks for most
  asked_.reserve(kUsual);
}

Fields::~Fields() {
  if (!valid_) return;
  for (const Node& item : object_.node().items) {
    if (asked_for(item.key) || comment_key(item.key)) continue;
    const Place at{item.file, item.key_offset, object_.path() + "." + std::string(item.key)};
    object_.report().warn("UNKNOWN_KEY", at, "unknown key is ignored", did_you_mean(item.key, asked_));
  }
}

bool Fields::asked_for(std::string_view key) const {
  return std::any_of(asked_.begin(), asked_.end(), [&](std::string_view asked) { return same_word(asked, key); });
}

std::vector<std::string> Fields::unknown_keys() const {
  std::vector<std::string> out;
  if (!valid_) return out;
  for (const Node& item : object_.node().items) {
    if (!asked_for(item.key) && !comment_key(item.key)) out.emplace_back(item.key);
  }
  return out;
}

std::optional<Value> Fields::find(std::string_view key) {
  asked_.push_back(key);
  if (!valid_) return std::nullopt;
  const Node* found = nullptr;
  for (const Node& item : object_.node().items) {
    if (item.key.size() != key.size() || !same_word(item.key, key)) continue;
    if (item.key == key) {
      found = &item;
      break;
    }
    found = &item;  // of several spellings the last one counts, as in V2Ray
  }
  if (found == nullptr || found->kind == Kind::null) return std::nullopt;
  return object_.member(*found);
}

std::optional<Value> Fields::find_any(std::initializer_list<std::string_view> keys) {
  std::optional<Value> out;
  for (const auto key : keys) {
    const auto value = find(key);
    if (!out) out = value;
  }
  return out;
}

Value Fields::object_or_empty(std::string_view key) {
  if (auto value = find(key)) return *value;
  Node empty;
  empty.key = key;
  empty.kind = Kind::object;
  empty.file = object_.node().file;
  empty.offset = object_.node().offset;
  return object_.member(object_.reading().made_up.emplace_back(std::move(empty)));
}

std::optional<std::string> Fields::string(std::string_view key) {
  const auto value = find(key);
  return value ? value->string() : std::nullopt;
}

std::optional<bool> Fields::boolean(std::string_view key) {
  const auto value = find(key);
  return value ? value->boolean() : std::nullopt;
}

void Fields::no_effect(std::initializer_list<std::string_view> keys, std::string_view why) {
  for (const auto key : keys) {
    if (const auto value = find(key)) value->warn("INEFFECTIVE", quoted(key) + " " + std::string(why));
  }
}

void Fields::unsupported(std::string_view key, std::string_view sentence, std::string_view suggestion) {
  const auto value = find(key);
  if (value && !is_off(value->node())) value->refuse("UNSUPPORTED", std::string(sentence), std::string(suggestion));
}

void Fields::unsupported_flag(std::string_view key, std::string_view sentence, std::string_view suggestion) {
  if (boolean(key)) unsupported(key, sentence, suggestion);
}

void Fields::unsupported_text(std::string_view key, std::string_view sentence, std::string_view suggestion) {
  if (string(key)) unsupported(key, sentence, suggestion);
}

void Fields::known(std::initializer_list<std::string_view> keys) {
  for (const auto key : keys) asked_.push_back(key);
}

bool is_off(const Node& node) {
  switch (node.kind) {
    case Kind::null: return true;
    case Kind::boolean: return !node.boolean;
    case Kind::number: return node.text == "0";
    case Kind::string: return node.text.empty();
    case Kind::array:
    case Kind::object: return node.items.empty();
  }
  return false;
}

}  // namespace ebb::config
