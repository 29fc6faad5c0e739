#include "common/crypto/placement.h"

#include <openssl/crypto.h>

#include <bit>
#include <cstdlib>

namespace ebb::crypto {
namespace {

constexpr std::size_t kSmallest = 256;  // smaller ones are no contexts
constexpr std::size_t kLargest = 2048;  // larger ones would waste too much

/// Aligned to the power of two that holds it, an object no larger than a page lies in one.
void* allocate(std::size_t bytes, const char*, int) {
  if (bytes < kSmallest || bytes > kLargest) return std::malloc(bytes);
  void* out = nullptr;
  return ::posix_memalign(&out, std::bit_ceil(bytes), bytes) == 0 ? out : nullptr;
}

void* resize(void* block, std::size_t bytes, const char*, int) { return std::realloc(block, bytes); }

void release(void* block, const char*, int) { std::free(block); }

}  // namespace

bool keep_contexts_within_pages() { return CRYPTO_set_mem_functions(allocate, resize, release) == 1; }

}  // namespace ebb::crypto
