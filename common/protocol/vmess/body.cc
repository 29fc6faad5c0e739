#include "common/protocol/vmess/body.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

#include "common/protocol/vmess/kdf.h"

namespace ebb::vmess {
namespace {

using crypto::Aead;
using crypto::AeadAlgorithm;

bool authenticated(Security security) {
  return security == Security::aes_128_gcm || security == Security::chacha20_poly1305;
}

/// ChaCha20 wants 32 bytes: MD5(k) || MD5(MD5(k)). spec/vmess.md 8.3.
Aead make_aead(Security security, const Block16& key, bool sealing) {
  const auto use = sealing ? Aead::Use::seal : Aead::Use::open;
  if (security == Security::aes_128_gcm) return Aead(AeadAlgorithm::aes_128_gcm, key, use);
  const Block16 first = crypto::md5({key});
  const Block16 second = crypto::md5({first});
  std::array<std::uint8_t, 32> expanded;
  std::ranges::copy(first, expanded.begin());
  std::ranges::copy(second, expanded.begin() + 16);
  return Aead(AeadAlgorithm::chacha20_poly1305, expanded, use);
}

/// BE16(counter) || iv[2..11].
crypto::Nonce chunk_nonce(std::uint16_t counter, const Block16& iv) {
  crypto::Nonce nonce;
  std::copy_n(iv.begin(), nonce.size(), nonce.begin());
  store_be16(nonce, counter);
  return nonce;
}

BodyState first_state(const SessionKeys& keys, const Block16& key, const Block16& iv) {
  BodyState state;
  state.security = keys.security;
  state.options = keys.options;
  state.packet_mode = keys.packet_mode();
  state.key = key;
  state.iv = iv;
  state.length_key = keys.request_key;
  state.length_iv = keys.request_iv;
  state.cfb = {iv, 0};
  return state;
}

}  // namespace

bool BodyState::framed() const { return authenticated(security) || (options & option::chunk_stream) != 0; }

std::size_t payload_offset(const BodyState& state) {
  if (!state.framed()) return 0;
  if (authenticated(state.security)) {
    return (state.options & option::authenticated_length) != 0 ? BodySealer::kMaxPayloadOffset : 2;
  }
  return state.security == Security::cfb ? 2 + 4 : 2;
}

BodyState request_body(const SessionKeys& keys) { return first_state(keys, keys.request_key, keys.request_iv); }

BodyState response_body(const SessionKeys& keys) {
  BodyState state = first_state(keys, keys.response_key, keys.response_iv);
  if (keys.legacy && keys.security == Security::cfb) {
    // The body goes on in the CFB stream of the header: V, 0, 0, 0.
    std::array<std::uint8_t, 4> header{keys.response_auth};
    crypto::CfbStream cfb(keys.response_key, {keys.response_iv, 0}, crypto::CfbStream::Use::encrypt);
    cfb.apply_in_place(header);
    state.cfb = cfb.position();
  }
  return state;
}

namespace detail {

BodyCipher::BodyCipher(const BodyState& state, bool sealing) : state_(state), framed_(state.framed()) {
  const bool aead = authenticated(state.security);
  const auto has = [&](std::uint8_t bit) { return (state.options & bit) != 0; };
  const bool sealed_length = aead && has(option::authenticated_length);
  draws_padding_ = framed_ && has(option::padding) && (state.security != Security::none || state.packet_mode);
  draws_mask_ = framed_ && has(option::mask) && !sealed_length;
  end_chunk_ = has(option::chunk_stream);
  if (aead) aead_ = make_aead(state.security, state.key, sealing);
  if (sealed_length) {
    length_aead_ = make_aead(state.security, kdf16(state.length_key, {as_bytes("auth_len")}), sealing);
  }
  if (state.security == Security::cfb) {
    cfb_.emplace(state.key, state.cfb, sealing ? crypto::CfbStream::Use::encrypt : crypto::CfbStream::Use::decrypt);
  }
  if (draws_padding_ || draws_mask_) mask_.emplace(state.iv, state.mask_position);
}

BodyState BodyCipher::save() const {
  BodyState state = state_;
  if (mask_) state.mask_position = mask_->position();
  if (cfb_) state.cfb = cfb_->position();
  return state;
}

std::uint16_t BodyCipher::draw() {
  assert(mask_);
  return mask_->next16();
}

crypto::Nonce BodyCipher::next_nonce() { return chunk_nonce(state_.counter++, state_.iv); }
crypto::Nonce BodyCipher::next_length_nonce() { return chunk_nonce(state_.length_counter++, state_.length_iv); }

std::size_t BodyCipher::overhead() const { return aead_ ? crypto::kTagBytes : cfb_ ? 4 : 0; }
std::size_t BodyCipher::head_bytes() const { return length_aead_ ? 2 + crypto::kTagBytes : 2; }

}  // namespace detail

// ------------------------------------------------------------------------------------------------ writer

namespace {
constexpr std::size_t kStreamPayload = std::size_t{16} * 1024;
constexpr std::size_t kDatagramPayload = 2048 - crypto::kTagBytes - kMaxPadding;  // stock readers cut at 2048
constexpr std::size_t kLongestPayload = 65535 - crypto::kTagBytes - kMaxPadding;
}  // namespace

std::size_t max_payload(const BodyState& state) { return state.packet_mode ? kDatagramPayload : kStreamPayload; }

BodySealer::BodySealer(const BodyState& state, crypto::RandomSource& random)
    : BodyCipher(state, true), random_(&random), max_payload_(vmess::max_payload(state)) {}

void BodySealer::set_max_payload(std::size_t bytes) {
  max_payload_ = std::clamp<std::size_t>(bytes, 1, kLongestPayload);
}

std::size_t BodySealer::seal(std::span<const ConstSpan> parts, MutSpan out) {
  std::size_t payload = 0;
  for (ConstSpan part : parts) payload += part.size();
  // An empty chunk would end the stream; a longer one would not fit the length field.
  assert(payload > 0 && payload <= max_payload_ && !state_.ended);
  assert(out.size() >= payload_offset() + payload + kMaxTail);
  return write(parts, payload, out);
}

std::size_t BodySealer::seal_end(MutSpan out) {
  if (state_.ended) return 0;
  state_.ended = true;
  if (!framed_ || !end_chunk_) return 0;
  assert(out.size() >= kMaxOverhead);
  return write({}, 0, out);
}

std::size_t BodySealer::write(std::span<const ConstSpan> parts, std::size_t payload, MutSpan out) {
  std::size_t at = 0;
  std::size_t padding = 0;
  if (framed_) {
    padding = draws_padding_ ? draw() % (kMaxPadding + 1) : 0;
    const auto size = static_cast<std::uint16_t>(payload + overhead() + padding);
    if (length_aead_) {
      std::array<std::uint8_t, 2> length;
      store_be16(length, static_cast<std::uint16_t>(size - crypto::kTagBytes));
      at = length_aead_->seal(next_length_nonce(), {}, ConstSpan(length), out);
    } else {
      store_be16(out, draws_mask_ ? static_cast<std::uint16_t>(size ^ draw()) : size);
      at = 2;
    }
  }
  if (aead_) {
    at += aead_->seal(next_nonce(), {}, parts, out.subspan(at));
  } else if (cfb_) {
    if (framed_) {
      std::uint32_t hash = crypto::kFnv1aBasis;
      for (ConstSpan part : parts) hash = crypto::fnv1a(part, hash);
      store_be32(out.subspan(at), hash);
      at += 4;
      cfb_->apply_in_place(out.first(at));
    }
    for (ConstSpan part : parts) {
      cfb_->apply(part, out.subspan(at));
      at += part.size();
    }
  } else {
    for (ConstSpan part : parts) {  // the only copy of payload: security none has no encryption to do it on the way
      if (!part.empty() && part.data() != out.data() + at) std::memcpy(out.data() + at, part.data(), part.size());
      at += part.size();
    }
  }
  if (padding != 0) {
    const MutSpan pad = out.subspan(at, padding);
    random_->fill(pad);
    if (cfb_) cfb_->apply_in_place(pad);
    at += padding;
  }
  return at;
}

// ------------------------------------------------------------------------------------------------ reader

BodyOpener::BodyOpener(const BodyState& state) : BodyCipher(state, false) {}

std::unexpected<WireError> BodyOpener::fail(WireFault fault, std::size_t at) {
  failed_ = WireError{fault, static_cast<std::uint32_t>(at)};
  return std::unexpected(*failed_);
}

Opened BodyOpener::need_more(MutSpan in) {
  partial_ = !in.empty();
  return {};
}

std::size_t BodyOpener::wanted() const {
  if (state_.ended || !framed_ || state_.raw_left != 0) return 1;
  if (!state_.length_known) return head_bytes();
  const bool whole_chunk = state_.security != Security::none || state_.packet_mode;
  return head_bytes() + (whole_chunk ? state_.chunk_bytes : 1u);
}

Decoded<Opened> BodyOpener::open(MutSpan in) {
  if (failed_) return std::unexpected(*failed_);
  if (state_.ended) return Opened{in.size(), {}, true};
  if (in.empty()) return need_more(in);
  if (!framed_) {
    if (cfb_) cfb_->apply_in_place(in);
    return Opened{in.size(), in, false};
  }
  if (state_.raw_left == 0 && !state_.length_known) {
    if (in.size() < head_bytes()) return need_more(in);
    if (const auto read = read_length(in); !read) return std::unexpected(read.error());
    if (state_.ended) return Opened{in.size(), {}, true};
  }
  if (state_.security == Security::none && !state_.packet_mode) return pass_through(in);
  if (in.size() < head_bytes() + state_.chunk_bytes) return need_more(in);
  return open_chunk(in);
}

/// Decodes the length field without changing it: it is presented again until the chunk is complete.
Decoded<> BodyOpener::read_length(MutSpan in) {
  state_.chunk_padding = draws_padding_ ? static_cast<std::uint8_t>(draw() % (kMaxPadding + 1)) : 0;
  std::array<std::uint8_t, 18> field;
  const std::size_t head = head_bytes();
  std::copy_n(in.begin(), head, field.begin());
  if (length_aead_) {
    if (!length_aead_->open(next_length_nonce(), {}, MutSpan(field))) return fail(WireFault::bad_tag, 0);
    const std::size_t size = load_be16(field) + crypto::kTagBytes;
    if (size > 65535) return fail(WireFault::bad_length, 0);
    state_.chunk_bytes = static_cast<std::uint16_t>(size);
  } else {
    if (cfb_) cfb_->apply_in_place(MutSpan(field).first(head));
    state_.chunk_bytes = static_cast<std::uint16_t>(load_be16(field) ^ (draws_mask_ ? draw() : 0));
  }
  const std::size_t least = overhead() + state_.chunk_padding;
  if (state_.chunk_bytes < least) return fail(WireFault::bad_length, 0);
  state_.length_known = true;
  // The length alone ends the stream: stock readers neither wait for the end chunk's tag nor look at it.
  if (state_.chunk_bytes == least) {
    state_.ended = true;
    state_.length_known = false;
  }
  return {};
}

Decoded<Opened> BodyOpener::open_chunk(MutSpan in) {
  const std::size_t head = head_bytes();
  const MutSpan chunk = in.subspan(head, state_.chunk_bytes);
  const MutSpan sealed = chunk.first(chunk.size() - state_.chunk_padding);
  MutSpan payload = sealed;
  if (aead_) {
    if (!aead_->open(next_nonce(), {}, sealed)) return fail(WireFault::bad_tag, head);
    payload = sealed.first(sealed.size() - crypto::kTagBytes);
  } else if (cfb_) {
    cfb_->apply_in_place(chunk);
    payload = sealed.subspan(4);
    if (crypto::fnv1a(payload) != load_be32(sealed)) return fail(WireFault::bad_tag, head);
  }
  state_.length_known = false;
  partial_ = false;
  return Opened{head + chunk.size(), payload, false};
}

Decoded<Opened> BodyOpener::pass_through(MutSpan in) {
  std::size_t from = 0;
  if (state_.length_known) {
    from = head_bytes();
    if (in.size() == from) return need_more(in);
    state_.raw_left = state_.chunk_bytes;
    state_.length_known = false;
  }
  const std::size_t n = std::min<std::size_t>(in.size() - from, state_.raw_left);
  state_.raw_left = static_cast<std::uint16_t>(state_.raw_left - n);
  partial_ = false;
  return Opened{from + n, in.subspan(from, n), false};
}

}  // namespace ebb::vmess
