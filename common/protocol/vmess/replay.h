// What a server must remember so that nothing is accepted twice, whoever stores it.
#pragma once

#include <cstdint>

#include "common/base/bytes.h"
#include "common/base/time.h"

namespace ebb::vmess {

/// AuthIDs, session triples and tainted legacy auths. One guard stands behind all workers of all generations, so that a
/// replay to another worker, or right after a reload, is not accepted. spec/vmess.md 4.4, 5.3, 6.2.
class ReplayGuard {
 public:
  enum class Kind : std::uint8_t { auth_id = 1, session = 2, taint = 3 };
  virtual ~ReplayGuard() = default;
  /// Remembers `bytes` until `expires` (the first second at which it may be forgotten). False when it is remembered
  /// already, or there is no room: both refuse the connection.
  virtual bool insert(Kind kind, ConstSpan bytes, UnixSeconds expires, UnixSeconds now) = 0;
  virtual bool contains(Kind kind, ConstSpan bytes, UnixSeconds now) const = 0;
};

}  // namespace ebb::vmess
