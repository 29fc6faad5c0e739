// SHAKE128 squeezed step by step. OpenSSL 3.0 has only a one-shot finish, so libgcrypt does it.
#pragma once

#include <cstdint>
#include <memory>

#include "common/base/bytes.h"

struct gcry_md_handle;

namespace ebb::crypto {

/// One output stream. Its whole state is the input and the number of bytes drawn, so it can be moved to another
/// process.
class Shake128 {
 public:
  /// `position`: bytes of output to skip, squeezed and thrown away (about 0.4 GB/s).
  explicit Shake128(ConstSpan input, std::uint64_t position = 0);
  Shake128(Shake128&&) noexcept;
  Shake128& operator=(Shake128&&) noexcept;
  ~Shake128();

  void draw(MutSpan out);
  std::uint16_t next16();  ///< two bytes, big-endian
  std::uint64_t position() const { return position_; }

 private:
  struct Free {
    void operator()(gcry_md_handle* handle) const noexcept;
  };
  std::unique_ptr<gcry_md_handle, Free> handle_;
  std::uint64_t position_ = 0;
};

}  // namespace ebb::crypto
