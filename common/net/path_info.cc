#include "common/net/path_info.h"

#include <linux/tcp.h>  // glibc's netinet/tcp.h ends its tcp_info at the fields of 2006
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>

namespace ebb::net {

std::optional<PathInfo> path_info(int fd) {
  tcp_info info{};
  socklen_t length = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return std::nullopt;
  if (length < offsetof(tcp_info, tcpi_delivery_rate) + sizeof info.tcpi_delivery_rate) return std::nullopt;
  PathInfo path;
  constexpr std::uint32_t kNoRtt = ~std::uint32_t{0};
  if (info.tcpi_min_rtt != kNoRtt) path.min_rtt = std::chrono::microseconds(info.tcpi_min_rtt);
  path.rtt = std::chrono::microseconds(info.tcpi_rtt);
  path.delivery_rate = info.tcpi_delivery_rate;
  path.app_limited = info.tcpi_delivery_rate_app_limited != 0;
  path.notsent_bytes = info.tcpi_notsent_bytes;
  path.unacked_bytes = std::size_t{info.tcpi_unacked} * info.tcpi_snd_mss;
  // Counted in bytes (4.19), small packets do not look like full ones. The acknowledged SYN counts as one.
  if (length >= offsetof(tcp_info, tcpi_bytes_retrans) + sizeof info.tcpi_bytes_retrans) {
    const auto gone = info.tcpi_bytes_acked + info.tcpi_bytes_retrans;
    const auto bytes = info.tcpi_bytes_sent > gone ? info.tcpi_bytes_sent - gone : 0;
    path.unacked_bytes = std::min(path.unacked_bytes, static_cast<std::size_t>(bytes));
  }
  return path;
}

}  // namespace ebb::net
