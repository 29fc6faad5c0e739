// Credit of many streams, any order of events: no overrun, no stream stuck, memory as promised (asserted by the model).
#include "tests/unit/reverse/credit_model.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::uint64_t budget = std::uint64_t{64} << (10 + data[0] % 12);  // 64 KiB to 128 MiB
  ebb::test::CreditModel(budget, 1 + data[1]).run({data + 2, size - 2});
  return 0;
}
