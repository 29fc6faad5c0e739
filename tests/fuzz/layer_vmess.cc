// VMess as a layer, alone, on and under plain bytes. Arbitrary bytes into a client and a server; and what a client
// seals, cut anywhere and the server moved in between, comes out again. Input: security, options, shape, size of
// pieces; bytes.
#include <cstdint>
#include <cstdlib>

#include "tests/support/layer_end.h"
#include "worker/layers/plain.h"
#include "worker/layers/vmess/vmess.h"

using namespace ebb;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) return 0;
  const auto security = vmess::security_from_wire(data[0] & 7);
  if (!security) return 0;
  crypto::SeededRandom random(1);
  vmess::ClientOptions options;
  options.security = *security;
  options.options = data[1];
  options.legacy = (data[2] & 1) != 0;
  const Target target{Network::tcp, std::string("x.test"), 80};
  const auto handshake = vmess::ClientHandshake::make(options, target, 1'700'000'000, random);
  if (!handshake) return 0;
  const std::size_t piece = 1 + data[3] * 3u;
  const ConstSpan input(data + 4, size - 4);
  test::LayerEnd near, far;
  const auto plain = [&](unsigned bit) {
    if ((data[2] & bit) == 0) return;
    near.add(std::make_unique<layers::PlainLayer>());
    far.add(std::make_unique<layers::PlainLayer>());
  };
  plain(2);
  near.add(std::make_unique<layers::VmessClientLayer>(*handshake, random));
  far.add(std::make_unique<layers::VmessServerLayer>(handshake->keys(), random));
  plain(4);
  near.speak();
  near.sent.clear();  // the request header: read by a handshake
  if ((data[2] & 8) != 0) {
    far.receive(input, piece);
    near.receive(input, piece);
    (void)layers::VmessServerLayer::restore(input, random);
    return 0;
  }
  for (ConstSpan rest = input; !rest.empty();) {
    const std::size_t n = std::min<std::size_t>(rest.size(), 1 + rest[0] * 100u);
    near.send(rest.first(n));
    far.send(rest.first(n));
    rest = rest.subspan(n);
  }
  near.end();
  far.end();
  const Bytes up = std::exchange(near.sent, {});
  near.receive(std::exchange(far.sent, {}), piece);
  if (near.failed || !std::ranges::equal(near.received, input)) std::abort();
  for (std::size_t at = 0; at < up.size() && !far.ended; at += piece) {
    far.receive(ConstSpan(up).subspan(at, std::min(piece, up.size() - at)));
    const auto state = far.stack.save();
    if (far.ended) break;
    if (!state) std::abort();
    layers::Stack moved;
    for (const auto& level : state->levels) {
      if (level.layer.type == 0) {
        moved.push(std::make_unique<layers::PlainLayer>(), level.unread);
      } else {
        moved.push(layers::VmessServerLayer::restore(level.layer.bytes, random).value(), level.unread);
      }
    }
    far.stack = std::move(moved);
  }
  if (far.failed || !std::ranges::equal(far.received, input)) std::abort();
  return 0;
}
