// Anonymous files passed between processes: sealed snapshots that nobody can change, shared tables that nobody can
// resize. CONFIG, SECRETS and SHM of PROTOCOL.md.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "common/base/bytes.h"
#include "common/base/fd.h"
#include "common/base/result.h"

namespace ebb::ipc {

/// A memfd with these bytes, sealed against writing and resizing. `name` shows in /proc only. Errors: os.
Result<Fd> make_sealed(const char* name, ConstSpan bytes);
/// A memfd of `bytes` zero bytes whose size is sealed: for MAP_SHARED tables. Errors: os.
Result<Fd> make_shared(const char* name, std::size_t bytes);

/// A mapping that unmaps itself.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept : at_(std::exchange(other.at_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(at_, other.at_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Mapping();

  void* data() const { return at_; }
  std::size_t size() const { return size_; }
  ConstSpan bytes() const { return {static_cast<const std::uint8_t*>(at_), size_}; }

 private:
  friend Result<Mapping> map_sealed(int fd);
  friend Result<Mapping> map_shared(int fd);
  Mapping(void* at, std::size_t size) : at_(at), size_(size) {}

  void* at_ = nullptr;
  std::size_t size_ = 0;
};

/// Maps the whole of a memfd made by make_sealed(), read-only. Errors: protocol when a seal is missing (a change under
/// our feet would be a crash), os. An empty file gives an empty mapping.
Result<Mapping> map_sealed(int fd);
/// Maps the whole of a memfd made by make_shared(), read and write, shared. Errors: as above.
Result<Mapping> map_shared(int fd);
/// Copies the whole of a sealed memfd. Errors: protocol when larger than `limit` or not sealed, os.
Result<std::string> read_sealed(int fd, std::size_t limit);

}  // namespace ebb::ipc
