// A layer for tests, with everything a protocol may do: a handshake, a head whose length depends on the payload, a tail
// nobody can foretell, answers nobody asked for, an end of one direction, state that travels.
//
// A message: [0] kind  [1] length n below 126, or 126 and [2,4) n big-endian, then n bytes, masked by the number of the
// message, that number modulo 5 bytes of padding, and a checksum. A client's first message is a hello, which the server
// answers. Ping is answered by pong; both have one byte.
#pragma once

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "worker/layers/layer.h"

namespace ebb::test {

class ChattyLayer final : public layers::Layer {
 public:
  static constexpr std::uint16_t kType = 6;
  static constexpr std::size_t kMaxPayload = 4000;

  explicit ChattyLayer(bool client) { state_.client = client; }
  static Decoded<std::unique_ptr<Layer>> restore(ConstSpan bytes) {
    if (bytes.size() != sizeof(State)) return std::unexpected{WireError{WireFault::bad_length, 0}};
    auto layer = std::make_unique<ChattyLayer>(false);
    std::memcpy(&layer->state_, bytes.data(), sizeof(State));
    return layer;
  }

  /// Asks the peer to say something.
  void ping() { state_.ping = true; }
  unsigned pings_seen() const { return state_.pings_seen; }
  unsigned pongs_seen() const { return state_.pongs_seen; }

  Decoded<Opened> open(MutSpan in) override {
    if (state_.ended) return Opened{in.size(), {}, true};
    if (in.size() < 2) return Opened{};
    const std::size_t head = in[1] < 126 ? 2 : 4;
    if (in[1] > 126) return fail(WireFault::bad_length);
    if (in.size() < head) return Opened{};
    const std::size_t bytes = head == 2 ? in[1] : load_be16(in.subspan(2));
    if (bytes > kMaxPayload || (head == 4 && bytes < 126)) return fail(WireFault::bad_length);
    const std::size_t padding = state_.number_in % 5;
    const std::size_t all = head + bytes + padding + 1;
    if (in.size() < all) return Opened{};
    const MutSpan payload = in.subspan(head, bytes);
    if (in[all - 1] != checksum(payload)) return fail(WireFault::bad_tag);
    mask(payload, state_.number_in++);
    const std::uint8_t kind = in[0];
    if (!state_.greeted && kind != 'h') return fail(WireFault::bad_command);
    if ((kind == 'p' || kind == 'o') && bytes != 1) return fail(WireFault::bad_length);
    switch (kind) {
      case 'h':
        if (state_.greeted) return fail(WireFault::bad_command);
        state_.greeted = true;
        if (!state_.client) state_.hello = true;
        return Opened{all, {}, false};
      case 'd': return Opened{all, payload, false};
      case 'p':
        state_.pong = true;  // two that come together have one answer
        ++state_.pings_seen;
        return Opened{all, {}, false};
      case 'o': ++state_.pongs_seen; return Opened{all, {}, false};
      case 'e': state_.ended = true; return Opened{all, {}, true};
      default: return fail(WireFault::bad_command);
    }
  }
  std::size_t max_kept() const override { return kMaxPayload + 16; }
  bool eof_is_clean() const override { return false; }  // only behind an end mark

  std::size_t max_payload() const override { return kMaxPayload; }
  std::size_t head(std::size_t payload) const override { return payload < 126 ? 2 : 4; }
  std::size_t max_head() const override { return 4; }
  std::size_t max_tail() const override { return 5; }
  MutSpan seal(std::span<const ConstSpan> parts, MutSpan out, std::size_t at) override {
    if (owes() > 0) std::abort();  // speak() comes first
    std::size_t bytes = 0;
    for (const ConstSpan part : parts) {
      if (part.data() != out.data() + at + bytes) std::memcpy(out.data() + at + bytes, part.data(), part.size());
      bytes += part.size();
    }
    if (bytes == 0 || bytes > kMaxPayload) std::abort();
    return message('d', out, at, bytes);
  }

  std::size_t owes() const override {
    return (hello_due() ? 2 + 5 + 5 : 0) + (state_.pong ? 2 + 1 + 5 : 0) + (state_.ping ? 2 + 1 + 5 : 0);
  }
  std::size_t speak(MutSpan out) override {
    std::size_t used = 0;
    const auto say = [&](std::uint8_t kind, std::string_view text) {
      std::copy(text.begin(), text.end(), out.begin() + static_cast<std::ptrdiff_t>(used) + 2);
      used += message(kind, out, used + 2, text.size()).size();
    };
    if (hello_due()) say('h', "hello");
    state_.hello_said = state_.hello_said || hello_due();
    if (std::exchange(state_.pong, false)) say('o', "o");
    if (std::exchange(state_.ping, false)) say('p', "p");
    return used;
  }
  std::size_t seal_end(MutSpan out) override {
    out[2] = 'e';
    return message('e', out, 2, 1).size();
  }

  layers::Saved save() const override {
    if (pinned) return std::unexpected{layers::Stays::never};
    if (!state_.greeted || owes() > 0) return std::unexpected{layers::Stays::not_now};
    layers::LayerState out{kType, Bytes(sizeof(State))};
    std::memcpy(out.bytes.data(), &state_, sizeof(State));
    return out;
  }
  bool pinned = false;  // cannot travel

 private:
  struct State {
    bool client = false;
    bool hello = false;  // the server owes one
    bool hello_said = false;
    bool greeted = false;  // the peer's hello came
    bool ping = false;     // owed
    bool pong = false;     // owed
    bool ended = false;
    std::uint8_t number_in = 0;
    std::uint8_t number_out = 0;
    unsigned pings_seen = 0;
    unsigned pongs_seen = 0;
  };

  bool hello_due() const { return !state_.hello_said && (state_.client || state_.hello); }
  static std::unexpected<WireError> fail(WireFault fault) { return std::unexpected{WireError{fault, 0}}; }
  static void mask(MutSpan bytes, std::uint8_t number) {
    for (std::uint8_t& each : bytes) each ^= static_cast<std::uint8_t>(number + 1);
  }
  static std::uint8_t checksum(ConstSpan bytes) {
    std::uint8_t sum = 0x5a;
    for (const std::uint8_t each : bytes) sum = static_cast<std::uint8_t>(sum * 3 + each);
    return sum;
  }
  MutSpan message(std::uint8_t kind, MutSpan out, std::size_t at, std::size_t bytes) {
    const std::size_t head_bytes = head(bytes);
    if (at < head_bytes) std::abort();  // less room than head() asked for
    const MutSpan payload = out.subspan(at, bytes);
    const std::size_t padding = state_.number_out % 5;
    mask(payload, state_.number_out++);
    std::uint8_t* const begin = payload.data() - head_bytes;
    begin[0] = kind;
    begin[1] = static_cast<std::uint8_t>(std::min<std::size_t>(bytes, 126));
    if (head_bytes == 4) store_be16(out.subspan(at - 2, 2), static_cast<std::uint16_t>(bytes));
    std::fill_n(out.subspan(at + bytes, padding + 1).begin(), padding, std::uint8_t{0xee});
    out[at + bytes + padding] = checksum(payload);
    return {begin, head_bytes + bytes + padding + 1};
  }

  State state_;
};

}  // namespace ebb::test
