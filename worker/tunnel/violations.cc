#include "worker/tunnel/violations.h"

#include <array>
#include <utility>

#include "common/base/log.h"
#include "common/base/sparingly.h"

namespace ebb::tunnel {
namespace {

struct Kind {
  std::uint64_t reverse::Violations::* count;
  std::string_view what;
};
constexpr std::array<Kind, 6> kKinds{{
    {&reverse::Violations::credit_overruns, "more data than was given: stream reset"},
    {&reverse::Violations::bad_control, "control message that cannot be read: ignored"},
    {&reverse::Violations::reopened, "New on a live id: old stream reset"},
    {&reverse::Violations::surplus, "more streams than one tunnel may have: refused"},
    {&reverse::Violations::ignored_new, "New from the end that opens none: ignored"},
    {&reverse::Violations::after_fin, "data behind its own FIN: stream reset"},
}};
static_assert(sizeof(reverse::Violations) == kKinds.size() * sizeof(std::uint64_t), "one line for each");

struct Line {
  Sparingly bound;
  std::uint64_t untold = 0;  // events, of all tunnels: a chunk may hold many
};
thread_local std::array<Line, kKinds.size()> lines;

}  // namespace

/// What is kept quiet is in the others of the next line, whoever's that is.
void ViolationLog::tell(const reverse::Violations& now_counted, TunnelId tunnel, const std::string& peer,
                        TimePoint now) {
  for (std::size_t i = 0; i < kKinds.size(); ++i) {
    const std::uint64_t times = now_counted.*kKinds[i].count;
    const std::uint64_t fresh = times - std::exchange(told_.*kKinds[i].count, times);
    if (fresh == 0) continue;
    if (!lines[i].bound.say(now)) {
      lines[i].untold += fresh;
      continue;
    }
    const std::uint64_t others = std::exchange(lines[i].untold, 0);
    log_event(log::Level::warning, "tunnel", "the other end broke a rule", kv("reason", kKinds[i].what),
              kv("tunnel", tunnel.value), kv("peer", peer), kv("times", times), kv("others", others));
  }
}

}  // namespace ebb::tunnel
