// What a tunnel's peer did that none may do, in words for the log.
#pragma once

#include <string>

#include "common/base/strong_id.h"
#include "common/base/time.h"
#include "common/reverse/engine.h"

namespace ebb::tunnel {

/// One line a second for each kind, of all tunnels of the process together: whoever breaks rules may also dial often.
class ViolationLog {
 public:
  /// After what may have been one. Cheap where there is nothing new.
  void look(const reverse::Violations& now_counted, TunnelId tunnel, const std::string& peer, TimePoint now) {
    if (now_counted.total() != told_.total()) [[unlikely]]
      tell(now_counted, tunnel, peer, now);
  }

 private:
  void tell(const reverse::Violations& now_counted, TunnelId tunnel, const std::string& peer, TimePoint now);

  reverse::Violations told_;
};

}  // namespace ebb::tunnel
