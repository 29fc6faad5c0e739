// PROXY headers: what decodes fits its bounds, does not change when cut, and what we write of it reads the same.
#include <cassert>

#include "common/protocol/proxy_protocol/header.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ebb::proxy_protocol;
  const ebb::ConstSpan in(data, size);
  const auto step = decode(in);
  if (!step) {
    for (std::size_t cut = 0; cut < size; ++cut) {
      const auto part = decode(in.first(cut));
      assert(!part || !part->message);  // more bytes never make a good header bad
    }
    return 0;
  }
  if (!step->message) {
    assert(step->used == 0 && size < kMaxHeader);
    return 0;
  }
  assert(step->used > 0 && step->used <= size && step->used <= kMaxHeader);
  for (std::size_t cut = 0; cut < step->used; ++cut) {
    const auto part = decode(in.first(cut));
    assert(part && !part->message && part->used == 0);
  }
  const auto& header = *step->message;
  for (const auto version : {Version::v1, Version::v2}) {
    const auto bytes = encoded(version, header.network, header.visitor);
    if (bytes.empty()) {
      assert(version == Version::v1 && header.network == ebb::Network::udp);
      continue;
    }
    const auto again = decode(bytes);
    assert(again && again->message && again->used == bytes.size());
    assert(again->message->visitor == header.visitor);
  }
  return 0;
}
