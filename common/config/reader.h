// Typed access to the tree: every field that is read, ignored or refused by name is known; the rest is reported.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "common/config/diagnostic.h"
#include "common/config/load.h"
#include "common/config/tree.h"

namespace ebb::config {

/// Where a finding points: a byte of a file, and the path printed with it.
struct Place {
  std::uint16_t file = 0;
  std::uint32_t offset = 0;
  std::string path;
};

/// Collects findings. Lines and columns are worked out once, at the end.
class Report {
 public:
  /// Severity error; `run` refuses.
  void refuse(std::string_view code, const Place& place, std::string message, std::string suggestion = {});
  /// `run` goes on with it.
  void note(Severity severity, std::string_view code, const Place& place, std::string message,
            std::string suggestion = {});
  void warn(std::string_view code, const Place& place, std::string message, std::string suggestion = {}) {
    note(Severity::warning, code, place, std::move(message), std::move(suggestion));
  }
  bool refused() const { return refused_; }
  /// The findings by file and position.
  std::vector<Diagnostic> finish(const std::vector<SourceFile>& files);

 private:
  struct Finding {
    std::uint16_t file;
    std::uint32_t offset;
    std::size_t order;  // of arrival, among findings at one place
    Diagnostic diagnostic;
  };
  void add(Finding finding);

  std::vector<Finding> findings_;
  bool refused_ = false;
};

/// What reading a configuration needs besides the tree.
struct Reading {
  Report& report;
  const Surroundings& surroundings;
  std::deque<Node> made_up = {};  // empty objects that stand for absent ones
  std::deque<Step> steps = {};    // of all values that were reached
};

/// One value of the tree that knows its path; the text of the path is made when a message needs it, which is rare.
/// Cheap to copy; valid as long as tree and Reading.
class Value {
 public:
  Value(Reading& reading, const Node& top) : reading_(&reading), node_(&top) {}

  Kind kind() const { return node_->kind; }
  const Node& node() const { return *node_; }
  std::string path() const { return path_text(step_); }
  Reading& reading() const { return *reading_; }
  Report& report() const { return reading_->report; }
  Place place() const { return {node_->file, node_->offset, path()}; }
  /// A member that is not there: its path, at this value's position.
  Place missing(std::string_view key) const { return {node_->file, node_->offset, path() + "." + std::string(key)}; }
  /// A member of this object: one of its items, or a node that stands for an absent one. The path ends with its key.
  Value member(const Node& node) const;

  /// These report TYPE and return nothing when the value is of another kind.
  bool expect(Kind kind, std::string_view what) const;
  std::optional<std::string> string() const;
  std::optional<bool> boolean() const;
  /// Reports VALUE too: not an integer, or outside [low, high].
  std::optional<std::int64_t> integer(std::int64_t low, std::int64_t high) const;
  template <class T>
  std::optional<T> number(T low = std::numeric_limits<T>::min(), T high = std::numeric_limits<T>::max()) const {
    const auto value = integer(static_cast<std::int64_t>(low), static_cast<std::int64_t>(high));
    return value ? std::optional<T>(static_cast<T>(*value)) : std::nullopt;
  }
  /// The elements of an array, nulls left out; empty with a TYPE finding otherwise.
  std::vector<Value> elements(std::string_view what = "an array") const;
  /// The members of a free-form object ("levels", "headers"), nulls left out.
  std::vector<std::pair<std::string, Value>> members(std::string_view what = "an object") const;

  void refuse(std::string_view code, std::string message, std::string suggestion = {}) const {
    report().refuse(code, place(), std::move(message), std::move(suggestion));
  }
  void warn(std::string_view code, std::string message, std::string suggestion = {}) const {
    report().warn(code, place(), std::move(message), std::move(suggestion));
  }

 private:
  Value(Reading& reading, const Node& node, const Step& step) : reading_(&reading), node_(&node), step_(&step) {}

  Reading* reading_;
  const Node* node_;
  const Step* step_ = nullptr;  // null: the top level
};

/// Reads an object with known keys, which are literals: they are remembered as views. Keys match without regard to
/// case, the exact spelling wins; null is absent. Keys nobody asked for are reported when the object goes out of scope,
/// unless it was not an object at all.
class Fields {
 public:
  explicit Fields(Value object, std::string_view what = "an object");
  Fields(const Fields&) = delete;
  Fields& operator=(const Fields&) = delete;
  ~Fields();

  const Value& self() const { return object_; }
  bool valid() const { return valid_; }
  std::optional<Value> find(std::string_view key);
  /// The first of several names that is present; all become known.
  std::optional<Value> find_any(std::initializer_list<std::string_view> keys);
  /// An object member, or an empty one at this object's position when it is absent.
  Value object_or_empty(std::string_view key);

  std::optional<std::string> string(std::string_view key);
  std::optional<bool> boolean(std::string_view key);
  template <class T>
  std::optional<T> number(std::string_view key, T low = std::numeric_limits<T>::min(),
                          T high = std::numeric_limits<T>::max()) {
    const auto value = find(key);
    return value ? value->number<T>(low, high) : std::nullopt;
  }

  /// Parsed, told, ignored.
  void no_effect(std::initializer_list<std::string_view> keys, std::string_view why = "has no effect here");
  /// Refused by name when present and not empty, false, 0, "" or null. `sentence`: "sniffing is not built yet".
  void unsupported(std::string_view key, std::string_view sentence, std::string_view suggestion = {});
  /// The same for a field of a known kind: another kind is a TYPE finding.
  void unsupported_flag(std::string_view key, std::string_view sentence, std::string_view suggestion = {});
  void unsupported_text(std::string_view key, std::string_view sentence, std::string_view suggestion = {});
  /// Known keys that need no word: their object is not looked at here.
  void known(std::initializer_list<std::string_view> keys);
  /// Keys of the object that nobody asked for so far.
  std::vector<std::string> unknown_keys() const;

 private:
  bool asked_for(std::string_view key) const;

  Value object_;
  bool valid_;
  std::vector<std::string_view> asked_;
};

/// False, 0, "", [] and {}: a feature that is written down but switched off.
bool is_off(const Node& node);

}  // namespace ebb::config
