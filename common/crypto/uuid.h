// The text of a user's id, as V2Ray and Xray read it.
#pragma once

#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/base/strong_id.h"

namespace ebb::crypto {

/// The 16 bytes of a configured `id`. Accepts what any of V2Ray 4.x, v2fly 5 and Xray accepts:
///   1..30 bytes       free text, mapped to a version 5 UUID as Xray does (V2Ray refuses such an id)
///   32 bytes and more 8-4-4-4-12 hex digits, either case, each group after at most one '-'; what follows the last
///                     group is ignored as V2Ray does (Xray refuses such an id)
/// Errors: config, for empty text, 31 bytes, and anything else. Source: spec/vmess.md 1.1.
Result<UserId> parse_user_id(std::string_view text);

/// True when parse_user_id maps the text instead of reading hex digits: only Xray peers understand such an id as it is.
bool is_mapped_user_id(std::string_view text);

/// "27848739-7e62-4138-9fd3-098a63964b6b".
std::string uuid_text(const UserId& id);

}  // namespace ebb::crypto
