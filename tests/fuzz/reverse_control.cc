// Control messages, and reasons of aborts: what decodes survives a round trip, and nothing else happens.
#include <cassert>

#include "common/reverse/abort_reason.h"
#include "common/reverse/control.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ebb::reverse;
  if (const auto abort = decode_abort({data, size})) {
    assert(abort->text.size() <= Abort::kMaxText);
    assert(decode_abort(encode_abort(*abort)) == abort);
  }
  const auto first = decode_control({data, size});
  if (!first) return 0;
  const auto bytes = encode_control(*first);
  const auto second = decode_control(bytes);
  if (bytes.size() > kMaxControl) {  // defaults we write out (a node id) can pass the limit
    assert(!second);
    return 0;
  }
  assert(second);
  assert(second->state == first->state && second->random == first->random && second->hello == first->hello);
  assert(second->windows == first->windows && second->ping == first->ping && second->notice == first->notice);
  assert(encode_control(*second) == bytes);
  return 0;
}
