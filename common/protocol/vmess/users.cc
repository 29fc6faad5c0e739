#include "common/protocol/vmess/users.h"

#include <string>

#include "common/protocol/vmess/legacy_table.h"

namespace ebb::vmess {
namespace {
constexpr std::size_t kMaxLegacyIds = 65'536;
}  // namespace

UserTable::UserTable() = default;
UserTable::UserTable(UserTable&&) noexcept = default;
UserTable& UserTable::operator=(UserTable&&) noexcept = default;
UserTable::~UserTable() = default;

Result<UserTable> UserTable::make(std::vector<User> users) {
  std::size_t legacy_ids = 0;
  for (const User& user : users) legacy_ids += user.alter_id > 0 ? user.alter_id + 1u : 0u;
  if (legacy_ids > kMaxLegacyIds) {
    return std::unexpected(Error{Errc::config,
                                 "the users' alterIds make " + std::to_string(legacy_ids) +
                                     " ids, at most 65536 are kept: lower alterId (0 is best)",
                                 {}});
  }
  UserTable table;
  table.users_.reserve(users.size());
  for (const User& user : users) {
    const Block16 cmd_key = command_key(user.id);
    table.users_.push_back({user, cmd_key, crypto::AesBlock(auth_id_key(cmd_key), crypto::AesBlock::Use::decrypt)});
  }
  table.drain_ = DrainLimits::server(users);
  if (legacy_ids > 0) table.legacy_ = std::make_unique<LegacyTable>(users);
  return table;
}

std::size_t UserTable::advance(UnixSeconds now, std::size_t max_steps) {
  return legacy_ ? legacy_->advance(now, max_steps) : 0;
}

std::optional<UserTable::AeadMatch> UserTable::match_auth_id(const Block16& auth_id, UnixSeconds now) {
  for (std::size_t i = 0; i < users_.size(); ++i) {
    const Block16 plain = users_[i].auth_id.apply(auth_id);
    const ConstSpan bytes(plain);
    if (crypto::crc32(bytes.first(12)) != load_be32(bytes.subspan(12))) continue;
    const auto time = static_cast<UnixSeconds>(load_be64(bytes));
    if (time < 0 || time < now - kTimeWindow || time > now + kTimeWindow) continue;
    return AeadMatch{i, time};
  }
  return std::nullopt;
}

std::optional<UserTable::LegacyMatch> UserTable::match_legacy(const Block16& auth, UnixSeconds now) const {
  if (!legacy_) return std::nullopt;
  const auto match = legacy_->find(auth, now);
  if (!match) return std::nullopt;
  return LegacyMatch{match->user, match->time};
}

}  // namespace ebb::vmess
