// Names to addresses: getaddrinfo on libuv's threads.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/base/address.h"
#include "common/base/result.h"
#include "common/net/uv_loop.h"

namespace ebb::net {

/// One look-up. Destroying it cancels: `done` is not called afterwards.
class Lookup {
 public:
  using Done = std::function<void(Result<std::vector<IpAddress>>)>;
  static constexpr std::size_t kMaxAddresses = 16;  // further ones are dropped

  /// Asks for `host`; `done` is called once, on a later turn of the loop, with at least one address in the order of
  /// RFC 6724, or with Errc::unresolved ("resolve NAME: ..."). It may destroy this object. An IP address is answered
  /// without the thread pool. What is no domain name (empty, over 253 bytes, odd bytes, a number in disguise such as
  /// "127.1" or "0x7f.1") is refused here: getaddrinfo would take it for an address no routing rule has seen.
  Lookup(UvLoop& loop, const Host& host, Done done);
  Lookup(const Lookup&) = delete;
  Lookup& operator=(const Lookup&) = delete;
  ~Lookup();

 private:
  struct Request;  // lives until libuv is done with it, with or without us
  void answer();

  Done done_;
  Request* request_ = nullptr;
  Result<std::vector<IpAddress>> known_;
  Deferred answer_;
};

/// Whether `name` may be asked for: bytes, lengths and the last label as described above.
bool is_domain_name(std::string_view name);

}  // namespace ebb::net
