// Arbitrary bytes into a body opener with arbitrary options; and whatever a sealer writes, cut and moved anywhere, must
// come out again. Input: security, options, flags, size of pieces, then bytes.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "common/protocol/vmess/session_state.h"

using namespace ebb;
using namespace ebb::vmess;

namespace {

/// Feeds `wire` in pieces; moves the opener to a new process between them. Returns all payload.
Bytes read_all(const SessionKeys& keys, ConstSpan wire, std::size_t piece, bool& end) {
  BodyOpener opener(request_body(keys));
  Bytes held;
  Bytes payload;
  for (std::size_t fed = 0; fed < wire.size();) {
    const std::size_t n = std::min(piece, wire.size() - fed);
    held.insert(held.end(), wire.begin() + static_cast<std::ptrdiff_t>(fed),
                wire.begin() + static_cast<std::ptrdiff_t>(fed + n));
    fed += n;
    for (;;) {
      const auto opened = opener.open(held);
      if (!opened) return payload;
      if (opened->end) {
        end = true;
        return payload;
      }
      if (opened->used == 0) break;
      if (opened->payload.empty() || opened->used > held.size()) std::abort();
      payload.insert(payload.end(), opened->payload.begin(), opened->payload.end());
      held.erase(held.begin(), held.begin() + static_cast<std::ptrdiff_t>(opened->used));
    }
    const SessionState state{keys, opener.save(), response_body(keys), false};
    const auto moved = decode_state(encode_state(state));
    if (!moved || *moved != state) std::abort();
    opener = BodyOpener(moved->request);
  }
  return payload;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) return 0;
  const auto security = security_from_wire(data[0] & 7);
  if (!security) return 0;
  SessionKeys keys;
  keys.security = *security;
  keys.options = data[1];
  if (keys.has(option::padding) && !keys.has(option::mask)) return 0;
  keys.command = (data[2] & 1) != 0 ? Command::udp : Command::tcp;
  keys.legacy = (data[2] & 2) != 0;
  derive_response_keys(keys);
  const std::size_t piece = 1 + data[3];
  const ConstSpan input(data + 4, size - 4);
  bool end = false;
  if ((data[2] & 4) == 0) {
    read_all(keys, input, piece, end);
    (void)decode_state(input);
    return 0;
  }
  crypto::SeededRandom random(1);
  BodySealer sealer(request_body(keys), random);
  Bytes wire;
  Bytes out(sealer.max_payload() + BodySealer::kMaxOverhead);
  for (ConstSpan rest = input; !rest.empty();) {
    const std::size_t n = std::min({rest.size(), sealer.max_payload(), std::size_t{1} + rest[0] * 3u});
    const ConstSpan parts[] = {rest.first(n / 2), rest.subspan(n / 2, n - n / 2)};
    const std::size_t written = sealer.seal(parts, out);
    wire.insert(wire.end(), out.begin(), out.begin() + static_cast<std::ptrdiff_t>(written));
    rest = rest.subspan(n);
  }
  const std::size_t last = sealer.seal_end(out);
  wire.insert(wire.end(), out.begin(), out.begin() + static_cast<std::ptrdiff_t>(last));
  const Bytes back = read_all(keys, wire, piece, end);
  if (!std::equal(back.begin(), back.end(), input.begin(), input.end())) std::abort();
  if (end != (last != 0)) std::abort();
  return 0;
}
