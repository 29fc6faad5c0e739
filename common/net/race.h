// Happy eyeballs (RFC 8305): the addresses of one host, tried so that a dead one costs a quarter of a second.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "common/base/address.h"
#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/net/loop.h"
#include "common/net/uv_loop.h"

namespace ebb::net {

/// The families take turns, beginning with that of the first address; within each the order stays.
std::vector<IpAddress> interleave(std::vector<IpAddress> addresses);

struct RacePlan {
  std::string name;  // what errors call it when it is not an address itself; "" = only the address
  std::uint16_t port = 0;
  std::optional<IpAddress> bind;                                     // local address, of the family of all `addresses`
  std::chrono::milliseconds dead_after = std::chrono::seconds(300);  // for tune_socket()
};

/// Connects to one of several addresses by TCP. Destroying it cancels and closes what is open.
class Race {
 public:
  static constexpr Duration kStagger = std::chrono::milliseconds(250);  // Connection Attempt Delay, RFC 8305 s.5
  static constexpr std::size_t kMaxAddresses = 16;                      // further ones are dropped
  using Done = std::function<void(Result<Fd>)>;

  /// Each address is tried when the one before has failed or was silent for kStagger. The first to connect wins, tuned
  /// (tune_socket), the others are closed. `done` is called once, on a later turn, and may destroy this object. There
  /// is no deadline here. Errors: refused, timeout, overload (no descriptors left) or os, of the address that failed
  /// last, as "connect NAME:PORT (ADDRESS): Connection refused". `addresses` are not empty.
  Race(UvLoop& loop, std::vector<IpAddress> addresses, RacePlan plan, Done done);
  Race(const Race&) = delete;
  Race& operator=(const Race&) = delete;
  ~Race();

  /// Of the address that failed last; while none has, nothing.
  const std::optional<Error>& last_error() const { return last_error_; }

 private:
  struct Connecting;

  void connect_next();
  void on_settled(Connecting& which, int error);
  Error failure(const Endpoint& to, int error) const;
  void finish(Result<Fd> outcome);

  UvLoop& loop_;
  const std::vector<IpAddress> addresses_;
  const RacePlan plan_;
  Done done_;
  std::size_t next_address_ = 0;
  std::vector<std::unique_ptr<Connecting>> connecting_;
  std::optional<Error> last_error_;
  Timer stagger_;
  Deferred start_;
};

}  // namespace ebb::net
