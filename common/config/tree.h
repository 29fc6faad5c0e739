// A JSON text as a tree that remembers where everything stood.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ebb::config {

enum class Kind : std::uint8_t { null, boolean, number, string, array, object };
std::string_view name_of(Kind kind);  // "a string", "an object", …

/// One value. `key` and `text` are views into the tree's `strings`, or of literals.
struct Node {
  Kind kind = Kind::null;
  bool boolean = false;
  std::uint16_t file = 0;
  std::uint32_t offset = 0;      // of the value's first character
  std::uint32_t key_offset = 0;  // of the key's opening quote, for members
  std::string_view key;          // unescaped, for members
  std::string_view text;         // a string, unescaped; a number as written
  std::vector<Node> items;       // elements, or members in file order
};

/// How a node was reached from the one around it. Chains of these spare the text of a path until a message needs it.
struct Step {
  const Step* around = nullptr;      // null: the top level
  std::string_view key;              // of a member
  std::optional<std::size_t> index;  // of an element
};
/// "$.inbounds[0].port"; null is "$".
std::string path_text(const Step* last);

struct DuplicateKey {
  std::string path;
  std::uint32_t offset = 0;  // of the later key
  std::uint32_t earlier = 0;
};

struct Tree {
  std::unique_ptr<char[]> strings;  // all keys, strings and numbers: one piece of memory instead of two for each node
  Node root;
  std::vector<DuplicateKey> duplicates;
  bool failed = false;  // the strict parser refused what the pre-scan let through
  std::uint32_t failed_offset = 0;
  std::string failed_message;
};

/// What parse_tree() adds to the text: with room for it the text is not copied.
inline constexpr std::size_t kTextPadding = 64;

/// Parses a prescanned text whose value is an object. The same key twice in one object: two objects are merged member
/// by member, anything else is replaced by the later value, as in V2Ray.
Tree parse_tree(std::string text, std::uint16_t file);

}  // namespace ebb::config
