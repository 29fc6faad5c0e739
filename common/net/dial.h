// Connecting to a host by TCP: names, several addresses, attempts with pauses.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "common/base/result.h"
#include "common/net/race.h"
#include "common/net/resolver.h"
#include "common/net/tcp_stream.h"

namespace ebb::net {

struct DialPlan {
  Host host;
  std::uint16_t port = 0;
  std::optional<IpAddress> bind;  // local address (sendThrough); addresses of the other family are skipped
  unsigned attempts = 1;          // attempt k (from 0) starts k * 100 ms after the one before failed
  Duration attempt_timeout = std::chrono::seconds(10);  // look-up and all addresses together
  // For tune_socket(). A peer who pauses with his window shut is not dead, so no less than the idle time.
  std::chrono::milliseconds dead_after = std::chrono::seconds(300);

  /// What V2Ray's outbounds do: 5 attempts, so a refusal is reported after 1.0 s (spec/reverse.md 4).
  static constexpr unsigned kOutboundAttempts = 5;
};

/// One connection being made. Destroying it cancels: `done` is not called afterwards.
class Dial {
 public:
  using Done = std::function<void(Result<std::unique_ptr<TcpStream>>)>;

  /// Every attempt resolves anew and races all addresses (race.h). `done` is called once, on a later turn, and may
  /// destroy this object. The stream is tuned (tune_socket). Errors are those of the last attempt: refused, timeout,
  /// overload (no descriptors left) or os, as "connect NAME:PORT (ADDRESS): Connection refused".
  Dial(UvLoop& loop, DialPlan plan, Done done);
  Dial(const Dial&) = delete;
  Dial& operator=(const Dial&) = delete;
  ~Dial();

 private:
  void begin_attempt();
  void on_addresses(Result<std::vector<IpAddress>> addresses);
  void on_race_over(Result<Fd> socket);
  void on_late();
  void attempt_failed(Error why);
  void stop_trying();
  void finish(Result<std::unique_ptr<TcpStream>> outcome);

  UvLoop& loop_;
  const DialPlan plan_;
  Done done_;
  unsigned attempt_ = 0;
  std::unique_ptr<Lookup> lookup_;
  std::unique_ptr<Race> race_;
  Timer pause_;  // between attempts
  Timer deadline_;
  Deferred start_;
};

}  // namespace ebb::net
