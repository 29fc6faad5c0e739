#include "ipc/memfd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

namespace ebb::ipc {
namespace {

constexpr int kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW;
constexpr int kAllSeals = kSizeSeals | F_SEAL_WRITE;

std::unexpected<Error> os_error(const char* call) {
  return std::unexpected(Error{Errc::os, std::string(call) + ": " + std::generic_category().message(errno), {}});
}

Result<std::size_t> sealed_size(int fd, int seals) {
  const int have = ::fcntl(fd, F_GET_SEALS);
  if (have < 0 || (have & seals) != seals) {
    return std::unexpected(Error{Errc::protocol, "a memfd without the seals it must have", {}});
  }
  struct stat info{};
  if (::fstat(fd, &info) != 0) return os_error("fstat");
  return static_cast<std::size_t>(info.st_size);
}

Result<Fd> make(const char* name) {
  Fd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return os_error("memfd_create");
  return fd;
}

}  // namespace

Result<Fd> make_sealed(const char* name, ConstSpan bytes) {
  auto fd = make(name);
  if (!fd) return fd;
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(fd->get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return os_error("write to a memfd");
    done += static_cast<std::size_t>(n);
  }
  if (::fcntl(fd->get(), F_ADD_SEALS, kAllSeals | F_SEAL_SEAL) != 0) return os_error("F_ADD_SEALS");
  return fd;
}

Result<Fd> make_shared(const char* name, std::size_t bytes) {
  auto fd = make(name);
  if (!fd) return fd;
  if (::ftruncate(fd->get(), static_cast<off_t>(bytes)) != 0) return os_error("ftruncate of a memfd");
  if (::fcntl(fd->get(), F_ADD_SEALS, kSizeSeals | F_SEAL_SEAL) != 0) return os_error("F_ADD_SEALS");
  return fd;
}

Mapping::~Mapping() {
  if (at_ != nullptr) ::munmap(at_, size_);
}

Result<Mapping> map_sealed(int fd) {
  const auto size = sealed_size(fd, kAllSeals);
  if (!size) return std::unexpected(size.error());
  if (*size == 0) return Mapping();
  // Private: until Linux 6.7 a shared mapping of a write-sealed file is EPERM even when it is read-only.
  void* at = ::mmap(nullptr, *size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (at == MAP_FAILED) return os_error("mmap");
  return Mapping(at, *size);
}

Result<Mapping> map_shared(int fd) {
  const auto size = sealed_size(fd, kSizeSeals);
  if (!size) return std::unexpected(size.error());
  if (*size == 0) return std::unexpected(Error{Errc::protocol, "an empty shared memfd", {}});
  void* at = ::mmap(nullptr, *size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return os_error("mmap");
  return Mapping(at, *size);
}

Result<std::string> read_sealed(int fd, std::size_t limit) {
  const auto mapping = map_sealed(fd);
  if (!mapping) return std::unexpected(mapping.error());
  if (mapping->size() > limit) {
    return std::unexpected(Error{
        Errc::protocol,
        "a memfd of " + std::to_string(mapping->size()) + " bytes, at most " + std::to_string(limit) + " expected",
        {}});
  }
  return std::string(as_text(mapping->bytes()));
}

}  // namespace ebb::ipc
