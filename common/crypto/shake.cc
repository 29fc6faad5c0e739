#include "common/crypto/shake.h"

#include <gcrypt.h>

#include <algorithm>
#include <array>
#include <cassert>

namespace ebb::crypto {
namespace {

/// libgcrypt wants to be told that we know it is there; secure memory is not needed for length masks.
bool initialise_gcrypt() {
  if (gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P)) return true;
  if (!gcry_check_version("1.9.0")) return false;
  gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
  gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
  return true;
}

}  // namespace

void Shake128::Free::operator()(gcry_md_handle* handle) const noexcept { gcry_md_close(handle); }

Shake128::Shake128(ConstSpan input, std::uint64_t position) {
  static const bool ready = initialise_gcrypt();
  gcry_md_hd_t handle = nullptr;
  const auto error = gcry_md_open(&handle, GCRY_MD_SHAKE128, 0);
  assert(ready && error == 0 && handle);
  handle_.reset(handle);
  gcry_md_write(handle, input.data(), input.size());
  std::array<std::uint8_t, 4096> skipped;
  while (position_ < position) {
    draw(MutSpan(skipped).first(std::min<std::uint64_t>(skipped.size(), position - position_)));
  }
}
Shake128::Shake128(Shake128&&) noexcept = default;
Shake128& Shake128::operator=(Shake128&&) noexcept = default;
Shake128::~Shake128() = default;

void Shake128::draw(MutSpan out) {
  const auto error = gcry_md_extract(handle_.get(), GCRY_MD_SHAKE128, out.data(), out.size());
  assert(error == 0);
  position_ += out.size();
}

std::uint16_t Shake128::next16() {
  std::uint8_t bytes[2];
  draw(bytes);
  return load_be16(bytes);
}

}  // namespace ebb::crypto
