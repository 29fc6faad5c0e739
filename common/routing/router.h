// Which outbound or portal a connection goes to. Pure: rules and a subject in, a decision out. spec/routing.md 2.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/routing/rule.h"

namespace ebb::routing {

struct Decision {
  enum class Kind : std::uint8_t { outbound, portal, none };  // none: there is no handler at all, close the connection
  Kind kind = Kind::none;
  std::size_t index = 0;       // into the outbounds or portals given to compile()
  const Rule* rule = nullptr;  // the rule that decided, owned by the router; null: the default
  friend bool operator==(const Decision&, const Decision&) = default;
};

/// A field of a rule, for explanations; `none` when every present field matches.
enum class Condition : std::uint8_t { none, domain, user, inbound_tag, port, source_port, network, ip, source };
std::string_view name_of(Condition condition);  // the key in the file: "inboundTag", "sourcePort", …

/// A compiled rule list. Immutable: decide() may run in several threads at once; it allocates only for names above 255
/// bytes. A decision costs a hash look-up per label of the name and per-rule work only for rules that the name or the
/// inbound tag selects, however long the list.
class Router {
 public:
  struct Handlers {
    std::vector<std::string> outbounds;  // tags in file order, "" where there is none; the first is the default
    std::vector<std::string> portals;    // tags; the first is the default when there are no outbounds
  };
  /// Called with a rule's outboundTag that nothing has, once per tag, from the thread that first decides so.
  using UnknownTagHook = std::function<void(std::string_view tag)>;

  /// Errors: config, an unusable pattern; `where` = "rules[1] > domain > [0]". A tag that several outbounds carry names
  /// the last of them, as V2Ray 4.34 has it; a portal hides outbounds of its tag.
  static Result<Router> compile(std::vector<Rule> rules, const Handlers& handlers, UnknownTagHook on_unknown_tag = {});

  /// The first matching rule decides; without one, or with an unknown tag, the default handler. spec/routing.md 2.
  Decision decide(const Subject& subject) const;

  const std::vector<Rule>& rules() const;
  /// The first field of rules()[index] that does not match, in the order of spec/routing.md 8: for `explain`.
  Condition failing_condition(std::size_t index, const Subject& subject) const;

  Router(Router&&) noexcept;
  Router& operator=(Router&&) noexcept;
  ~Router();

 private:
  struct Compiled;
  explicit Router(std::unique_ptr<const Compiled> compiled);
  std::unique_ptr<const Compiled> compiled_;
};

}  // namespace ebb::routing
