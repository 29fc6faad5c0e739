// What a protocol does to the bytes of a connection: plaintext pieces to wire bytes and back. Sans-IO; one per Wire.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

#include "common/base/bytes.h"
#include "common/base/result.h"

namespace ebb::relay {

class Codec {
 public:
  struct Opened {
    std::size_t used = 0;  // bytes taken from the front; 0 without `end` means "need more"
    MutSpan plain;         // points into the input; may be empty
    bool end = false;      // the peer finished; what follows is ignored
  };

  virtual ~Codec() = default;
  /// Opens from the front of `in`, in place. Errors are final: close the connection.
  virtual Decoded<Opened> open(MutSpan in) = 0;
  /// Whether an end of the transport right here is an ordinary end.
  virtual bool eof_is_clean() const = 0;

  /// Plaintext bytes one seal() takes, and how many more it may write for them. Their sum fits one block.
  virtual std::size_t max_payload() const = 0;
  virtual std::size_t max_overhead() const = 0;
  /// Seals the concatenation of `parts` (1..max_payload() bytes) into `out`; returns bytes written.
  virtual std::size_t seal(std::span<const ConstSpan> parts, MutSpan out) = 0;
  /// What has to go out before any payload (a client's request header), at most max_overhead() bytes; 0 = nothing.
  virtual std::size_t seal_start(MutSpan out) = 0;
  /// The end mark of our direction, at most max_overhead() bytes; 0 = the protocol has none.
  virtual std::size_t seal_end(MutSpan out) = 0;
};

/// No protocol. For wires whose bytes come from many places and do not outlive the call, a tunnel's frames: the one
/// copy stands where a cipher would seal, gives frame heads an owner and makes one system call of a wake-up's frames.
class PlainCodec final : public Codec {
 public:
  Decoded<Opened> open(MutSpan in) override { return Opened{in.size(), in, false}; }
  bool eof_is_clean() const override { return true; }
  std::size_t max_payload() const override { return 64 * 1024; }
  std::size_t max_overhead() const override { return 0; }
  std::size_t seal(std::span<const ConstSpan> parts, MutSpan out) override {
    std::size_t used = 0;
    for (const ConstSpan part : parts) {
      std::memcpy(out.data() + used, part.data(), part.size());
      used += part.size();
    }
    return used;
  }
  std::size_t seal_start(MutSpan) override { return 0; }
  std::size_t seal_end(MutSpan) override { return 0; }
};

}  // namespace ebb::relay
