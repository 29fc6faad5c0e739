#include "common/routing/regexp.h"

#include <re2/re2.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>

namespace ebb::routing {
namespace {

constexpr std::int64_t kUsualMemory =
    1 << 20;  // bytes for program and automaton; hostile names cannot make it grow beyond
constexpr std::int64_t kMostMemory = 64 << 20;  // for the rare program that needs it: \pL{1,1000}

/// Go's words differ from RE2's; both are turned into what the user has to change.
std::string explain(const RE2& bad) {
  struct Missing {
    std::string_view construct;
    std::string_view name;
  };
  static constexpr std::array<Missing, 6> kMissing{{{"(?!", "look-ahead"},
                                                    {"(?=", "look-ahead"},
                                                    {"(?<!", "look-behind"},
                                                    {"(?<=", "look-behind"},
                                                    {"(?P=", "back-reference"},
                                                    {"(?>", "atomic group"}}};
  const std::string prefix = "regular expression is not RE2: ";
  const std::string& expression = bad.pattern();
  const std::string& where = bad.error_arg();
  if (bad.error_code() == RE2::ErrorBadPerlOp) {
    for (const Missing& m : kMissing)
      if (m.construct.starts_with(where) && expression.find(m.construct) != expression.npos)
        return prefix + std::string(m.name) + " \"" + std::string(m.construct) + "\" is not supported";
  }
  if (bad.error_code() == RE2::ErrorBadEscape && where.size() == 2 && where[1] >= '1' && where[1] <= '9')
    return prefix + "back-reference \"" + where + "\" is not supported";
  return prefix + bad.error();
}

}  // namespace

Result<Regexp> Regexp::compile(std::string_view expression) {
  const re2::StringPiece text(expression.data(), expression.size());
  RE2::Options options;
  options.set_log_errors(false);
  options.set_max_mem(kUsualMemory);
  auto compiled = std::make_unique<RE2>(text, options);
  if (compiled->error_code() == RE2::ErrorPatternTooLarge) {
    options.set_max_mem(kMostMemory);
    compiled = std::make_unique<RE2>(text, options);
  }
  if (!compiled->ok()) return std::unexpected{Error{Errc::config, explain(*compiled), {}}};
  return Regexp(std::move(compiled));
}

bool Regexp::found_in(std::string_view text) const {
  return RE2::PartialMatch(re2::StringPiece(text.data(), text.size()), *compiled_);
}

Regexp::Regexp(std::unique_ptr<RE2> compiled) : compiled_(std::move(compiled)) {}
Regexp::Regexp(Regexp&&) noexcept = default;
Regexp& Regexp::operator=(Regexp&&) noexcept = default;
Regexp::~Regexp() = default;

}  // namespace ebb::routing
