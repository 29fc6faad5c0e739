#include "worker/relay/vmess_state.h"

#include <algorithm>

#include "worker/relay/vmess_codec.h"

namespace ebb::relay {
namespace {

constexpr std::size_t kKeysBytes = 4 * 16 + 8;
constexpr std::size_t kDirectionBytes = 40;
constexpr std::size_t kStateBytes = kKeysBytes + 2 * kDirectionBytes;

void put_direction(const vmess::BodyState& body, MutSpan out) {
  store_be16(out, body.counter);
  store_be16(out.subspan(2), body.length_counter);
  store_be64(out.subspan(4), body.mask_position);
  std::copy(body.cfb.feedback.begin(), body.cfb.feedback.end(), out.begin() + 12);
  out[28] = body.cfb.offset;
  out[29] = body.ended ? 1 : 0;
  out[30] = body.length_known ? 1 : 0;
  out[31] = body.chunk_padding;
  store_be16(out.subspan(32), body.chunk_bytes);
  store_be16(out.subspan(34), body.raw_left);
}

Decoded<> get_direction(ConstSpan in, vmess::BodyState& body) {
  if (in[28] > 16 || in[29] > 1 || in[30] > 1 || in[31] > vmess::kMaxPadding) {
    return std::unexpected{WireError{WireFault::bad_option, 28}};
  }
  body.counter = load_be16(in);
  body.length_counter = load_be16(in.subspan(2));
  body.mask_position = load_be64(in.subspan(4));
  std::copy_n(in.begin() + 12, 16, body.cfb.feedback.begin());
  body.cfb.offset = in[28];
  body.ended = in[29] != 0;
  body.length_known = in[30] != 0;
  body.chunk_padding = in[31];
  body.chunk_bytes = load_be16(in.subspan(32));
  body.raw_left = load_be16(in.subspan(34));
  return {};
}

}  // namespace

VmessState fresh_state(const vmess::SessionKeys& keys) {
  return {keys, vmess::request_body(keys), vmess::response_body(keys), false};
}

Bytes encode_state(const VmessState& state) {
  Bytes out(kStateBytes);
  MutSpan at(out);
  for (const auto* block : {&state.keys.request_key, &state.keys.request_iv, &state.keys.response_key,
                            &state.keys.response_iv}) {
    std::copy(block->begin(), block->end(), at.begin());
    at = at.subspan(block->size());
  }
  at[0] = state.keys.options;
  at[1] = static_cast<std::uint8_t>(state.keys.security);
  at[2] = static_cast<std::uint8_t>(state.keys.command);
  at[3] = state.keys.response_auth;
  at[4] = state.keys.legacy ? 1 : 0;
  at[5] = state.response_sent ? 1 : 0;
  put_direction(state.reading, at.subspan(8));
  put_direction(state.writing, at.subspan(8 + kDirectionBytes));
  return out;
}

Decoded<VmessState> decode_state(ConstSpan bytes) {
  if (bytes.size() != kStateBytes) return std::unexpected{WireError{WireFault::bad_length, 0}};
  vmess::SessionKeys keys;
  ConstSpan at = bytes;
  for (auto* block : {&keys.request_key, &keys.request_iv, &keys.response_key, &keys.response_iv}) {
    std::copy_n(at.begin(), block->size(), block->begin());
    at = at.subspan(block->size());
  }
  const auto security = vmess::security_from_wire(at[1]);
  if (!security || at[2] < 1 || at[2] > 3 || at[4] > 1 || at[5] > 1) {
    return std::unexpected{WireError{WireFault::bad_option, 4 * 16}};
  }
  keys.options = at[0];
  keys.security = *security;
  keys.command = vmess::Command{at[2]};
  keys.response_auth = at[3];
  keys.legacy = at[4] != 0;
  VmessState out = fresh_state(keys);
  out.response_sent = at[5] != 0;
  for (auto [direction, offset] : {std::pair{&out.reading, std::size_t{8}}, {&out.writing, 8 + kDirectionBytes}}) {
    if (const auto got = get_direction(at.subspan(offset), *direction); !got) return std::unexpected{got.error()};
  }
  return out;
}

std::unique_ptr<Codec> codec_from(const VmessState& state, crypto::RandomSource& random) {
  return std::make_unique<VmessServerCodec>(state.keys, state.reading, state.writing, state.response_sent, random);
}

}  // namespace ebb::relay
