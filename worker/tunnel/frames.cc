// What a tunnel writes: frames cut to fit the chunks below, and datagrams.
#include <algorithm>
#include <array>

#include "worker/tunnel/tunnel.h"

namespace ebb::tunnel {
namespace {

constexpr std::size_t kSpareUnsent = std::size_t{8} << 20;  // Opens and Ends beside what streams may queue
constexpr std::size_t kChunkBytes = 16 * 1024;  // plaintext of one sealed chunk: frames are cut to fill it exactly
constexpr std::size_t kMostUnsent = std::size_t{2} << 20;  // above, datagrams are dropped; while memory is short above
constexpr std::size_t kFewUnsent = std::size_t{64} << 10;

}  // namespace

/// Frames that no room() holds back. A peer that provokes them without reading would have us queue them for ever.
void Tunnel::send_own(ConstSpan frames) {
  wire_.send(frames);
  if (wire_.queued() > limits_.tunnel_buffer + kSpareUnsent) {
    die(Error{Errc::overload, "the other end takes nothing of what it makes us send", {}});
  }
}

void Tunnel::send_data(StreamId stream, ConstSpan piece) {
  if (dead_) return;
  const std::size_t most = engine_->send_limits().max_data;
  // Frames and chunks fit each other: k frames of 8 + n bytes make one 16 KiB chunk, sealed from where the bytes are.
  const std::size_t limit = most + mux::kKeepHead;
  const std::size_t frames = (kChunkBytes + limit - 1) / limit;
  const std::size_t data_bytes = std::min(kChunkBytes / frames - mux::kKeepHead, most);
  constexpr std::size_t kMaxFrames = 8;
  std::array<std::array<std::uint8_t, mux::kKeepHead>, kMaxFrames> heads;
  std::array<ConstSpan, 2 * kMaxFrames> parts;
  while (!piece.empty()) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < std::min(frames, kMaxFrames) && !piece.empty(); ++i) {
      const ConstSpan data = piece.first(std::min(piece.size(), data_bytes));
      mux::write_keep_head(heads[i], stream, data.size());
      parts[count++] = heads[i];
      parts[count++] = data;
      piece = piece.subspan(data.size());
    }
    wire_.send(std::span(parts).first(count));
  }
}

bool Tunnel::send_datagram(StreamId stream, ConstSpan datagram, const Target* address) {
  if (dead_ || datagram.empty() || datagram.size() > engine_->send_limits().max_datagram) return false;
  if (wire_.queued() > (wire_.pressed() ? kFewUnsent : kMostUnsent)) return false;
  std::array<std::uint8_t, mux::kMaxHead> head;
  std::size_t head_bytes = mux::kKeepHead;
  if (address != nullptr) {
    head_bytes = mux::write_keep_head(head, stream, *address, datagram.size());
    if (head_bytes == 0) return false;
  } else {
    mux::write_keep_head(head, stream, datagram.size());
  }
  const std::array<ConstSpan, 2> parts{ConstSpan(head).first(head_bytes), datagram};
  wire_.send(parts);
  return true;
}

}  // namespace ebb::tunnel
