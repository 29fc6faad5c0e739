// State blobs and their META. What decodes must encode to something that decodes to the same.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "ipc/state_blob.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ebb;
  using namespace ebb::ipc;
  const ConstSpan in(data, size);
  if (const auto blob = decode_blob(in)) {
    BlobWriter writer;
    for (std::uint16_t t = 1; t <= kTlvTypes; ++t) {
      if (const auto value = blob->get(Tlv(t)); value && !writer.add(Tlv(t), *value)) std::abort();
    }
    const Bytes again = writer.take();
    if (again.size() != in.size() || !decode_blob(again)) std::abort();
    if (const auto meta = blob->get(Tlv::meta)) (void)decode_meta(*meta);
  }
  if (const auto meta = decode_meta(in)) {
    const auto bytes = encode_meta(*meta);
    if (!bytes) std::abort();
    const auto again = decode_meta(*bytes);
    if (!again || *again != *meta) std::abort();
  }
  return 0;
}
