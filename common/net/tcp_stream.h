// Stream over a connected (or connecting) socket descriptor.
#pragma once

#include "common/base/fd.h"
#include "common/net/stream.h"
#include "common/net/uv_loop.h"

namespace ebb::net {

class TcpStream final : public Stream, private Watched {
 public:
  /// Takes over a non-blocking socket. A descriptor the kernel refuses to watch reads as an error at once.
  TcpStream(UvLoop& loop, Fd socket);
  ~TcpStream() override;

  IoResult read(MutSpan into) override;
  IoResult write(std::span<const iovec> pieces) override;
  void shutdown_write() override;
  void reset() override;
  std::optional<Endpoint> peer() const override;
  std::size_t undelivered() const override;
  std::optional<PathInfo> path() const override;
  Fd release() override;
  int fd() const { return socket_.get(); }

 private:
  void on_events(std::uint32_t epoll_events) override;
  void forget();

  UvLoop& uv_;
  Fd socket_;
  bool watched_ = false;
  bool ending_ = false;  // end of stream, an error or urgent data is on its way: a short read proves nothing
};

/// TCP_NODELAY, keepalive and TCP_USER_TIMEOUT as every carried connection has them. `dead_after`: unacknowledged data,
/// or a window that stays shut though the peer answers (Linux counts both), for so long ends the connection.
void tune_socket(int fd, std::chrono::milliseconds dead_after);

}  // namespace ebb::net
