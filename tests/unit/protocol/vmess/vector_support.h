// What the tests of this folder share: vectors turned into our types, a body opened in pieces.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/crypto/uuid.h"
#include "common/protocol/vmess/body.h"
#include "common/protocol/vmess/request.h"
#include "tests/support/vectors.h"

namespace ebb::vmess {

template <std::size_t N = 16>
std::array<std::uint8_t, N> array_of(const test::Json& json) {
  const Bytes bytes = json.hex();
  EXPECT_EQ(bytes.size(), N);
  std::array<std::uint8_t, N> out{};
  std::copy_n(bytes.begin(), std::min(N, bytes.size()), out.begin());
  return out;
}

inline UserId user_id(const test::Json& entry) { return crypto::parse_user_id(entry["uuid"].text()).value(); }

/// Keys of entries with option, security, command, body_key, body_iv, response_auth, header.
inline SessionKeys keys_of(const test::Json& entry) {
  SessionKeys keys;
  keys.request_key = array_of(entry["body_key"]);
  keys.request_iv = array_of(entry["body_iv"]);
  if (entry.has("option")) {
    keys.options = static_cast<std::uint8_t>(entry["option"].number());
    keys.security = security_from_wire(static_cast<std::uint8_t>(entry["security"].number())).value();
    keys.command = Command{static_cast<std::uint8_t>(entry["command"].number())};
  }
  keys.response_auth = static_cast<std::uint8_t>(entry["response_auth"].number());
  keys.legacy = entry["header"].text() == "legacy";
  derive_response_keys(keys);
  return keys;
}

/// All that an opener makes of a byte stream.
struct OpenedBody {
  std::vector<Bytes> pieces;  // as open() gave them
  bool end = false;
  bool clean = false;  // at_boundary() when the input was over
  std::optional<WireError> error;
  Bytes joined() const {
    Bytes all;
    for (const Bytes& piece : pieces) all.insert(all.end(), piece.begin(), piece.end());
    return all;
  }
};

/// Feeds `wire` in pieces whose sizes `next_piece()` gives (0 is read as 1), calling `between(opener)` after each.
template <class NextPiece, class Between>
OpenedBody open_body(BodyOpener& opener, ConstSpan wire, NextPiece next_piece, Between between) {
  OpenedBody result;
  Bytes held;
  std::size_t fed = 0;
  for (;;) {
    for (;;) {
      auto opened = opener.open(held);
      if (!opened) {
        result.error = opened.error();
        EXPECT_FALSE(opener.open(held)) << "an opener that failed must go on failing";
        return result;
      }
      EXPECT_LE(opened->used, held.size());
      if (opened->end) {
        result.end = result.clean = true;
        EXPECT_TRUE(opener.at_boundary());
        return result;
      }
      if (opened->used == 0) break;
      EXPECT_FALSE(opened->payload.empty());
      result.pieces.emplace_back(opened->payload.begin(), opened->payload.end());
      held.erase(held.begin(), held.begin() + static_cast<std::ptrdiff_t>(opened->used));
    }
    EXPECT_GT(opener.wanted(), held.size()) << "needs more, and yet has what it wants";
    EXPECT_LE(opener.wanted(), kMaxChunkBytes);
    result.clean = opener.at_boundary();
    if (fed == wire.size()) return result;
    const std::size_t n = std::min(std::max<std::size_t>(next_piece(), 1), wire.size() - fed);
    held.insert(held.end(), wire.begin() + static_cast<std::ptrdiff_t>(fed),
                wire.begin() + static_cast<std::ptrdiff_t>(fed + n));
    fed += n;
    between(opener);
  }
}

inline OpenedBody open_whole(const BodyState& state, ConstSpan wire) {
  BodyOpener opener(state);
  return open_body(opener, wire, [&] { return wire.size(); }, [](BodyOpener&) {});
}

inline std::vector<Bytes> hex_list(const test::Json& list) {
  std::vector<Bytes> out;
  for (const auto& item : list) out.push_back(item.hex());
  return out;
}

inline Bytes joined(const std::vector<Bytes>& pieces) {
  Bytes all;
  for (const Bytes& piece : pieces) all.insert(all.end(), piece.begin(), piece.end());
  return all;
}

}  // namespace ebb::vmess
