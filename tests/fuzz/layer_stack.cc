// Stacks of up to three layers. What one end seals, cut anywhere and moved to another process in between, the other end
// opens; and arbitrary bytes end in an error or in silence. Input: layers, size of pieces, what to do; then bytes.
#include <cstdint>
#include <cstdlib>

#include "tests/support/chatty_layer.h"
#include "tests/support/layer_end.h"
#include "worker/layers/plain.h"

using namespace ebb;

namespace {

void move_on(test::LayerEnd& end) {
  const auto state = end.stack.save();
  if (!state) return;
  layers::Stack moved;
  for (const auto& level : state->levels) {
    if (level.layer.type == 0) {
      moved.push(std::make_unique<layers::PlainLayer>(), level.unread);
      continue;
    }
    auto layer = test::ChattyLayer::restore(level.layer.bytes);
    if (!layer) std::abort();
    moved.push(std::move(*layer), level.unread);
  }
  if (moved.save().value() != *state) std::abort();
  end.stack = std::move(moved);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 3) return 0;
  test::LayerEnd near, far;
  std::vector<test::ChattyLayer*> talkers;
  for (unsigned i = 0, kinds = data[0]; i < 3 && (kinds & 3) != 0; ++i, kinds >>= 2) {
    if ((kinds & 3) == 1) {
      near.add(std::make_unique<layers::PlainLayer>());
      far.add(std::make_unique<layers::PlainLayer>());
      continue;
    }
    auto client = std::make_unique<test::ChattyLayer>(true);
    talkers.push_back(client.get());
    near.add(std::move(client));
    far.add(std::make_unique<test::ChattyLayer>(false));
  }
  if (near.stack.empty()) return 0;
  const std::size_t piece = 1 + data[1] * 5u;
  const unsigned how = data[2];
  const ConstSpan input(data + 3, size - 3);
  if ((how & 1) != 0) {
    far.receive(input, piece);
    return 0;
  }
  near.speak();
  Bytes back;
  for (ConstSpan rest = input; !rest.empty();) {
    const std::size_t n = std::min<std::size_t>(rest.size(), 1 + rest[0] * 20u);
    if ((rest[0] & 3) == 0 && !talkers.empty()) {
      talkers[rest[0] % talkers.size()]->ping();
      near.speak();
    }
    near.send(rest.first(n));
    rest = rest.subspan(n);
    const Bytes wire = std::exchange(near.sent, {});
    for (std::size_t at = 0; at < wire.size(); at += piece) {
      far.receive(ConstSpan(wire).subspan(at, std::min(piece, wire.size() - at)));
      if ((how & 2) != 0) move_on(far);
    }
    if (far.failed || far.ended) std::abort();
    near.receive(std::exchange(far.sent, {}), piece);  // what it answered by itself
    if (near.failed || !near.received.empty()) std::abort();
  }
  near.end();
  far.receive(std::exchange(near.sent, {}), piece);
  if (far.failed || far.ended != !talkers.empty()) std::abort();
  if (!std::ranges::equal(far.received, input)) std::abort();
  return 0;
}
