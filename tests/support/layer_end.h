// One end of a connection in memory: a stack, what it has sent and what it has received.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "worker/layers/stack.h"

namespace ebb::test {

class LayerEnd final : public layers::Sink, public layers::Outlet {
 public:
  void add(std::unique_ptr<layers::Layer> layer) { stack.push(std::move(layer)); }
  void send(ConstSpan bytes) { stack.seal({&bytes, 1}, *this); }
  void speak() { stack.speak(*this); }
  void end() { stack.seal_end(*this); }

  /// Opens `bytes`, `piece` at a time as so many reads would bring them, and says what that makes the layers say.
  void receive(ConstSpan bytes, std::size_t piece = SIZE_MAX) {
    constexpr std::size_t kAt = layers::Stack::kFrontRoom;
    do {
      const ConstSpan now = bytes.first(std::min(piece, bytes.size()));
      bytes = bytes.subspan(now.size());
      if (failed || ended) continue;
      if (buffer_.size() < kAt + now.size()) buffer_.resize(kAt + now.size());
      std::ranges::copy(now, buffer_.begin() + kAt);
      const auto opened = stack.open(MutSpan(buffer_).first(kAt + now.size()), kAt, *this);
      failed = !opened;
      ended = opened && *opened;
      if (opened) speak();
      // The buffer belongs to somebody else now.
      std::ranges::fill(MutSpan(buffer_).subspan(kAt - 2048, 2048 + now.size()), std::uint8_t{0xdd});
    } while (!bytes.empty());
  }

  bool on_plain(MutSpan bytes) override {
    if (bytes.empty()) std::abort();
    received.insert(received.end(), bytes.begin(), bytes.end());
    return --enough_after != 0;
  }
  /// Exactly what was asked for, so that whoever writes more is caught.
  MutSpan room(std::size_t bytes) override {
    if (bytes > layers::Stack::kMaxRoom) std::abort();
    block_ = Bytes(bytes, 0xbb);
    return block_;
  }
  void commit(std::size_t bytes) override {
    const ConstSpan used = ConstSpan(block_).first(bytes);
    sent.insert(sent.end(), used.begin(), used.end());
    block_ = {};
  }

  layers::Stack stack;
  Bytes sent;
  Bytes received;
  bool ended = false;
  bool failed = false;
  std::size_t enough_after = SIZE_MAX;  // calls of on_plain()

 private:
  Bytes block_;
  Bytes buffer_;
};

}  // namespace ebb::test
