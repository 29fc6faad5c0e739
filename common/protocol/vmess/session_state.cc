#include "common/protocol/vmess/session_state.h"

#include <algorithm>

namespace ebb::vmess {
namespace {

constexpr std::uint8_t kVersion = 1;
constexpr std::size_t kDirectionBytes = 36;
constexpr std::size_t kRequestAt = 38;
constexpr std::size_t kResponseAt = kRequestAt + kDirectionBytes;
static_assert(kResponseAt + kDirectionBytes == kSessionStateBytes);

void put(const BodyState& state, MutSpan out) {
  out[0] = static_cast<std::uint8_t>((state.ended ? 1 : 0) | (state.length_known ? 2 : 0));
  out[1] = state.chunk_padding;
  store_be16(out.subspan(2), state.counter);
  store_be16(out.subspan(4), state.length_counter);
  store_be64(out.subspan(6), state.mask_position);
  store_be16(out.subspan(14), state.chunk_bytes);
  store_be16(out.subspan(16), state.raw_left);
  out[18] = state.cfb.offset;
  out[19] = 0;
  std::ranges::copy(state.cfb.feedback, out.begin() + 20);
}

/// Fills what moved into a state that already has keys and options. False for values no such state can have.
bool take(ConstSpan in, BodyState& state) {
  state.ended = (in[0] & 1) != 0;
  state.length_known = (in[0] & 2) != 0;
  state.chunk_padding = in[1];
  state.counter = load_be16(in.subspan(2));
  state.length_counter = load_be16(in.subspan(4));
  state.mask_position = load_be64(in.subspan(6));
  state.chunk_bytes = load_be16(in.subspan(14));
  state.raw_left = load_be16(in.subspan(16));
  state.cfb.offset = in[18];
  std::ranges::copy(in.subspan(20, 16), state.cfb.feedback.begin());
  if (in[0] > 3 || in[19] != 0 || state.cfb.offset > 15 || state.chunk_padding > kMaxPadding) return false;
  if (state.mask_position > kMaxMovableMaskPosition) return false;
  const std::size_t overhead = state.security == Security::cfb ? 4 : state.security == Security::none ? 0 : 16;
  return !state.length_known || (state.framed() && state.chunk_bytes > overhead + state.chunk_padding);
}

}  // namespace

bool movable(const SessionState& state) {
  return state.request.mask_position <= kMaxMovableMaskPosition &&
         state.response.mask_position <= kMaxMovableMaskPosition;
}

std::array<std::uint8_t, kSessionStateBytes> encode_state(const SessionState& state) {
  std::array<std::uint8_t, kSessionStateBytes> blob{};
  const SessionKeys& keys = state.keys;
  blob[0] = kVersion;
  blob[1] = keys.options;
  blob[2] = static_cast<std::uint8_t>(keys.security);
  blob[3] = static_cast<std::uint8_t>(keys.command);
  blob[4] = keys.response_auth;
  blob[5] = static_cast<std::uint8_t>((keys.legacy ? 1 : 0) | (state.response_sent ? 2 : 0));
  std::ranges::copy(keys.request_key, blob.begin() + 6);
  std::ranges::copy(keys.request_iv, blob.begin() + 22);
  put(state.request, MutSpan(blob).subspan(kRequestAt, kDirectionBytes));
  put(state.response, MutSpan(blob).subspan(kResponseAt, kDirectionBytes));
  return blob;
}

Decoded<SessionState> decode_state(ConstSpan blob) {
  const auto bad = [](std::uint32_t at) { return std::unexpected(WireError{WireFault::bad_option, at}); };
  if (blob.size() != kSessionStateBytes) return std::unexpected(WireError{WireFault::bad_length, 0});
  if (blob[0] != kVersion) return bad(0);
  SessionState state;
  SessionKeys& keys = state.keys;
  keys.options = blob[1];
  const auto security = security_from_wire(blob[2]);
  if (!security || blob[2] == 0) return bad(2);
  keys.security = *security;
  if (keys.has(option::padding) && !keys.has(option::mask)) return bad(1);
  if (blob[3] < 1 || blob[3] > 3) return bad(3);
  keys.command = Command{blob[3]};
  keys.response_auth = blob[4];
  if (blob[5] > 3) return bad(5);
  keys.legacy = (blob[5] & 1) != 0;
  state.response_sent = (blob[5] & 2) != 0;
  std::ranges::copy(blob.subspan(6, 16), keys.request_key.begin());
  std::ranges::copy(blob.subspan(22, 16), keys.request_iv.begin());
  derive_response_keys(keys);
  state.request = request_body(keys);
  state.response = response_body(keys);
  if (!take(blob.subspan(kRequestAt, kDirectionBytes), state.request)) return bad(kRequestAt);
  if (!take(blob.subspan(kResponseAt, kDirectionBytes), state.response)) return bad(kResponseAt);
  return state;
}

}  // namespace ebb::vmess
