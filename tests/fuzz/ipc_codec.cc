// Both directions of every kind of link, fed headers and bodies from the input.
// Per message: link and sender (1 byte), body length (1 byte, times 8), flags, type, nfds, nrec, then the body.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "ipc/codec.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ebb;
  using namespace ebb::ipc;
  if (size < 1) return 0;
  Direction direction(Link(data[0] & 3), Role(1 + (data[0] >> 2) % 5));
  for (std::size_t at = 1; at + 5 <= size;) {
    Header header;
    header.flags = data[at];
    header.type = data[at + 1];
    header.nfds = data[at + 2];
    header.nrec = data[at + 3];
    const std::size_t want = data[at + 4] * std::size_t{8};
    at += 5;
    const ConstSpan body(data + at, std::min(want, size - at));
    at += body.size();
    header.body_len = static_cast<std::uint32_t>(body.size());
    header.seq = direction.next_seq();
    bool known = true;
    const FaultCode asked = direction.check(header, body);
    const Phase before = direction.phase();
    const FaultCode code = direction.accept(header, body, &known);
    if (known && asked != code) std::abort();
    if (code != FaultCode::none) return 0;
    if (!known) continue;
    const Rule* rule = find_rule(Type{header.type}, direction.link(), direction.sender());
    if (rule == nullptr || (rule->phases & static_cast<unsigned>(before)) == 0) std::abort();
    if (body.size() < rule->fixed + std::size_t{rule->record} * header.nrec) std::abort();  // what readers rely on
    if (before == Phase::over) std::abort();
  }
  return 0;
}
