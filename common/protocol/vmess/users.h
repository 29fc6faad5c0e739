// The users of an inbound, looked up by the first 16 bytes a connection sends.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/base/result.h"
#include "common/base/time.h"
#include "common/crypto/aes.h"
#include "common/protocol/vmess/account.h"

namespace ebb::vmess {

class LegacyTable;

inline constexpr UnixSeconds kTimeWindow = 120;  // seconds a peer's clock may be off, either way; exactly that is fine

/// Not for use by two threads at a time.
class UserTable {
 public:
  /// Errors: config, when all users with alterId > 0 have more than 65,536 ids together (their table takes about 5.6 KB
  /// of memory and an HMAC per second for each id).
  static Result<UserTable> make(std::vector<User> users);
  UserTable(UserTable&&) noexcept;
  UserTable& operator=(UserTable&&) noexcept;
  ~UserTable();

  /// Brings the table of legacy auths up to `now`: call once a second. Computes at most `max_steps` time steps (each an
  /// HMAC per id), those nearest to `now` first; returns how many are still missing. Free without legacy users.
  std::size_t advance(UnixSeconds now, std::size_t max_steps = SIZE_MAX);

  struct AeadMatch {
    std::size_t user;
    UnixSeconds time;
  };
  /// One AES block per user. nullopt: no user's key gives a valid checksum and a time within the window.
  std::optional<AeadMatch> match_auth_id(const Block16& auth_id, UnixSeconds now);

  struct LegacyMatch {
    std::size_t user;
    UnixSeconds time;
  };
  /// One look-up, whatever the number of ids. Only users with alterId > 0 are found.
  std::optional<LegacyMatch> match_legacy(const Block16& auth, UnixSeconds now) const;

  const User& user(std::size_t index) const { return users_[index].user; }
  const Block16& cmd_key(std::size_t index) const { return users_[index].cmd_key; }
  std::size_t size() const { return users_.size(); }
  const DrainLimits& drain() const { return drain_; }

 private:
  struct Entry {
    User user;
    Block16 cmd_key;
    crypto::AesBlock auth_id;
  };
  UserTable();

  std::vector<Entry> users_;
  DrainLimits drain_;
  std::unique_ptr<LegacyTable> legacy_;  // null without legacy users
};

}  // namespace ebb::vmess
