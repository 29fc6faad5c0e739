// Plain bytes as a layer: whatever goes in comes out, in any parts and pieces. Input: size of pieces, then bytes.
#include <cstdint>
#include <cstdlib>

#include "tests/support/layer_end.h"
#include "worker/layers/plain.h"

using namespace ebb;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::size_t piece = 1 + data[0];
  const ConstSpan input(data + 1, size - 1);
  test::LayerEnd near, far;
  near.add(std::make_unique<layers::PlainLayer>());
  far.add(std::make_unique<layers::PlainLayer>());
  std::vector<ConstSpan> parts;
  for (ConstSpan rest = input; !rest.empty();) {
    const std::size_t n = std::min<std::size_t>(rest.size(), rest[0]);
    parts.push_back(rest.first(n));
    rest = rest.subspan(std::max<std::size_t>(n, 1));
    if (n == 0) parts.back() = ConstSpan(rest.data() - 1, 1);
  }
  near.stack.seal(parts, near);
  near.end();
  far.receive(near.sent, piece);
  if (far.failed || !std::ranges::equal(far.received, input) || !far.stack.eof_is_clean()) std::abort();
  return 0;
}
