// What one protocol does to the bytes of a connection. Sans-IO. Layers lie on each other in a Stack (stack.h).
//
//   bytes of the peer  ->  open(), from the bottom up, in place      ->  plaintext
//   plaintext          ->  seal(), from the top down, in one block   ->  bytes for the peer
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <string_view>

#include "common/base/bytes.h"
#include "common/base/result.h"

namespace ebb::layers {

/// Everything a layer needs to go on elsewhere, as it travels: whoever restores it knows the layer by `type`.
struct LayerState {
  std::uint16_t type = 0;
  Bytes bytes;
  friend bool operator==(const LayerState&, const LayerState&) = default;
};

/// Why a connection stays where it is.
enum class Stays : std::uint8_t {
  not_now,  // in the middle of something: ask again
  never,
};

using Saved = std::expected<LayerState, Stays>;

class Layer {
 public:
  struct Opened {
    std::size_t used = 0;  // bytes taken from the front; 0 without `end` means "need more"
    MutSpan plain;         // points into the input; may be empty
    bool end = false;      // the peer finished; what follows is ignored
  };

  Layer() = default;
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;
  virtual ~Layer() = default;

  // ---- what comes
  /// Opens one message from the front of `in`, in place, or as much as needs no whole message. Errors are final.
  virtual Decoded<Opened> open(MutSpan in) = 0;
  /// The most bytes open() may have to see again, one short of a whole message: given more it opens or fails.
  virtual std::size_t max_kept() const = 0;
  /// Whether an end of what lies below, right here, is an ordinary end.
  virtual bool eof_is_clean() const = 0;

  // ---- what goes
  /// Payload bytes of one message.
  virtual std::size_t max_payload() const = 0;
  /// Bytes that go in front of a payload of at most `payload` bytes: never too few. What is too much costs a move of
  /// the message, so say it exactly where it can be known.
  virtual std::size_t head(std::size_t payload) const = 0;
  /// The most head() will ever say, and the most that goes behind a payload.
  virtual std::size_t max_head() const = 0;
  virtual std::size_t max_tail() const = 0;
  /// Seals the concatenation of `parts` (1..max_payload() bytes) as one message: the payload to out[at], at most
  /// head() bytes in front and max_tail() behind; returns the message. A single part may lie at out[at] already, else
  /// no part overlaps `out`: who is first copies, and a cipher copies on the way.
  virtual MutSpan seal(std::span<const ConstSpan> parts, MutSpan out, std::size_t at) = 0;

  // ---- what nobody asked for
  /// How many bytes speak() may write now; 0 = nothing to say. Asked before the first payload and after whatever was
  /// opened. A peer may provoke an answer with every byte and read none: so one speak() says all there is, in at most
  /// kMaxSpeech bytes, and what is owed again while it waits must not add up.
  virtual std::size_t owes() const { return 0; }
  /// Says it: whole messages of this layer (a request head, a pong, a key update), which those below then seal.
  virtual std::size_t speak(MutSpan) { return 0; }
  static constexpr std::size_t kMaxSpeech = 1024;

  // ---- the end of our direction, alone
  /// Writes the mark that ends it, at most kMaxEnd bytes; 0 = there is none, or nothing to be said. Nothing is sealed
  /// afterwards.
  virtual std::size_t seal_end(MutSpan) { return 0; }
  static constexpr std::size_t kMaxEnd = 256;
  /// Whether the transport ends our direction as well: for protocols without a mark of their own.
  virtual bool half_closes() const { return false; }

  // ---- going on in another process
  /// What restores this layer; bytes that open() has yet to see again travel beside it.
  virtual Saved save() const = 0;
};

}  // namespace ebb::layers
