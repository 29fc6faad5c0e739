#include "worker/layers/plain.h"

#include <cstring>

namespace ebb::layers {

MutSpan PlainLayer::seal(std::span<const ConstSpan> parts, MutSpan out, std::size_t at) {
  std::size_t bytes = 0;
  for (const ConstSpan part : parts) {
    std::uint8_t* const to = out.data() + at + bytes;
    // The one copy of payload where no cipher makes it: whoever comes first brings the bytes into the block.
    if (!part.empty() && part.data() != to) std::memcpy(to, part.data(), part.size());
    bytes += part.size();
  }
  return out.subspan(at, bytes);
}

}  // namespace ebb::layers
