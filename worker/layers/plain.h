// No protocol. For wires whose bytes come from many places and do not outlive the call, a tunnel's frames: the one copy
// stands where a cipher would seal, gives frame heads an owner and makes one system call of a wake-up's frames.
#pragma once

#include "worker/layers/layer.h"

namespace ebb::layers {

class PlainLayer final : public Layer {
 public:
  Decoded<Opened> open(MutSpan in) override { return Opened{in.size(), in, false}; }
  std::size_t max_kept() const override { return 0; }
  bool eof_is_clean() const override { return true; }
  std::size_t max_payload() const override { return std::size_t{64} * 1024; }
  std::size_t head(std::size_t) const override { return 0; }
  std::size_t max_head() const override { return 0; }
  std::size_t max_tail() const override { return 0; }
  MutSpan seal(std::span<const ConstSpan> parts, MutSpan out, std::size_t at) override;
  bool half_closes() const override { return true; }
  /// Nothing to restore: the connection goes on without it.
  Saved save() const override { return LayerState{}; }
};

}  // namespace ebb::layers
