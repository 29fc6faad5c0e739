// Regular expressions in the dialect V2Ray users write (Go's RE2): matching is linear in the input, whatever a stranger
// sends.
#pragma once

#include <memory>
#include <string_view>

#include "common/base/result.h"

namespace re2 {
class RE2;
}

namespace ebb::routing {

/// One compiled expression; immutable, usable from several threads at once.
class Regexp {
 public:
  /// Errors: config, with the construct that RE2 lacks named ("look-ahead "(?!" is not supported"). spec/routing.md 4.
  static Result<Regexp> compile(std::string_view expression);
  /// True when the expression is found anywhere in `text` (not anchored).
  bool found_in(std::string_view text) const;

  Regexp(Regexp&&) noexcept;
  Regexp& operator=(Regexp&&) noexcept;
  ~Regexp();

 private:
  explicit Regexp(std::unique_ptr<re2::RE2> compiled);
  std::unique_ptr<re2::RE2> compiled_;
};

}  // namespace ebb::routing
