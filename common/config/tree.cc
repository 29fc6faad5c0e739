#include "common/config/tree.h"

#include <simdjson.h>

#include <algorithm>
#include <numeric>
#include <tuple>

namespace ebb::config {
namespace {

namespace od = simdjson::ondemand;
using simdjson::error_code;

class Builder {
 public:
  /// `strings`: as many bytes as the text has; nothing is longer unescaped.
  Builder(const char* begin, std::uint16_t file, char* strings) : begin_(begin), file_(file), free_(strings) {}

  error_code object(od::object object, Node& out) {
    out.kind = Kind::object;
    out.file = file_;
    for (auto entry : object) {
      od::field field;
      if (const auto error = std::move(entry).get(field)) return error;
      Node& member = out.items.emplace_back();
      member.key_offset = offset_of(field.key().raw()) - 1;  // raw() points behind the quote
      std::string_view key;
      if (const auto error = field.unescaped_key().get(key)) return error;
      member.key = keep(key);
      if (const auto error = value(field.value(), member)) return error;
    }
    return simdjson::SUCCESS;
  }

  std::uint32_t offset_of(const char* at) const { return static_cast<std::uint32_t>(at - begin_); }
  std::uint32_t last_offset() const { return last_; }

 private:
  error_code value(od::value value, Node& out) {
    const std::string_view token = value.raw_json_token();
    out.file = file_;
    out.offset = last_ = offset_of(&token.front());
    switch (token.front()) {
      case '{': {
        od::object object_value;
        if (const auto error = value.get_object().get(object_value)) return error;
        return object(object_value, out);
      }
      case '[': return array(value, out);
      case '"': {
        out.kind = Kind::string;
        std::string_view text;
        if (const auto error = value.get_string().get(text)) return error;
        out.text = keep(text);
        return simdjson::SUCCESS;
      }
      case 't':
      case 'f': out.kind = Kind::boolean; return value.get_bool().get(out.boolean);
      case 'n': return value.is_null() ? simdjson::SUCCESS : simdjson::N_ATOM_ERROR;
      default:
        out.kind = Kind::number;
        out.text = keep(token.substr(0, token.find_first_of(" \t\r\n,]}")));
        return simdjson::SUCCESS;
    }
  }

  error_code array(od::value value, Node& out) {
    out.kind = Kind::array;
    od::array elements;
    if (const auto error = value.get_array().get(elements)) return error;
    for (auto entry : elements) {
      od::value element;
      if (const auto error = std::move(entry).get(element)) return error;
      if (const auto error = this->value(element, out.items.emplace_back())) return error;
    }
    return simdjson::SUCCESS;
  }

  std::string_view keep(std::string_view text) {
    const std::string_view kept(free_, text.size());
    free_ = std::copy(text.begin(), text.end(), free_);
    return kept;
  }

  const char* begin_;
  std::uint16_t file_;
  char* free_;
  std::uint32_t last_ = 0;
};

/// Few members, the usual case, are told apart without memory for sorting.
bool all_different(const std::vector<Node>& members) {
  constexpr std::size_t kFew = 16;
  if (members.size() > kFew) return false;
  for (auto one = members.begin(); one != members.end(); ++one) {
    if (std::any_of(members.begin(), one, [&](const Node& other) { return other.key == one->key; })) return false;
  }
  return true;
}

/// Folds members of `node` with equal keys into the later one's place.
void fold_members(Node& node, const Step* here, std::vector<DuplicateKey>& found) {
  std::vector<std::size_t> order(node.items.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::tie(node.items[a].key, a) < std::tie(node.items[b].key, b);
  });
  std::vector<bool> gone(node.items.size());
  for (std::size_t i = 1; i < order.size(); ++i) {
    Node& earlier = node.items[order[i - 1]];
    Node& later = node.items[order[i]];
    if (earlier.key != later.key) continue;
    const Step step{here, later.key, std::nullopt};
    found.push_back({path_text(&step), later.key_offset, earlier.key_offset});
    if (earlier.kind == Kind::object && later.kind == Kind::object) {
      earlier.items.insert(earlier.items.end(), std::make_move_iterator(later.items.begin()),
                           std::make_move_iterator(later.items.end()));
      later.items = std::move(earlier.items);
    }
    gone[order[i - 1]] = true;
  }
  std::size_t kept = 0;
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    if (gone[i]) continue;
    if (kept != i) node.items[kept] = std::move(node.items[i]);
    ++kept;
  }
  node.items.resize(kept);
}

/// The same everywhere below `node`, outermost first.
void fold_duplicates(Node& node, const Step* here, std::vector<DuplicateKey>& found) {
  const bool object = node.kind == Kind::object;
  if (object && !all_different(node.items)) fold_members(node, here, found);
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    Node& item = node.items[i];
    if (item.items.empty()) continue;
    const Step step{here, object ? std::string_view(item.key) : std::string_view(),
                    object ? std::nullopt : std::optional(i)};
    fold_duplicates(item, &step, found);
  }
}

}  // namespace

std::string path_text(const Step* last) {
  std::vector<const Step*> way;
  for (const Step* step = last; step != nullptr; step = step->around) way.push_back(step);
  std::string out = "$";
  for (auto step = way.rbegin(); step != way.rend(); ++step) {
    if (const auto& index = (*step)->index) {
      out += "[" + std::to_string(*index) + "]";
    } else {
      out += "." + std::string((*step)->key);
    }
  }
  return out;
}

std::string_view name_of(Kind kind) {
  switch (kind) {
    case Kind::null: return "null";
    case Kind::boolean: return "true or false";
    case Kind::number: return "a number";
    case Kind::string: return "a string";
    case Kind::array: return "an array";
    case Kind::object: return "an object";
  }
  return "";
}

Tree parse_tree(std::string text, std::uint16_t file) {
  Tree tree;
  const std::size_t size = text.size();
  static_assert(kTextPadding >= simdjson::SIMDJSON_PADDING);
  text.resize(size + kTextPadding, ' ');
  od::parser parser;
  od::document document;
  tree.strings = std::make_unique_for_overwrite<char[]>(size);
  Builder builder(text.data(), file, tree.strings.get());
  auto error = parser.iterate(text.data(), size, text.size()).get(document);
  od::object root;
  if (!error) error = document.get_object().get(root);
  if (!error) {
    tree.root.offset = static_cast<std::uint32_t>(text.find('{'));
    error = builder.object(root, tree.root);
  }
  if (error) {
    tree.failed = true;
    tree.failed_offset = builder.last_offset();
    tree.failed_message = simdjson::error_message(error);
    return tree;
  }
  fold_duplicates(tree.root, nullptr, tree.duplicates);
  return tree;
}

}  // namespace ebb::config
