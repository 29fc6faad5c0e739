#include "worker/inbound/proxy_header.h"

#include <utility>

#include "common/protocol/proxy_protocol/header.h"

namespace ebb::inbound {

net::Task<Result<VisitorAddress>> accept_proxy_header(net::Conversation& client, Duration limit) {
  const net::Deadline deadline(client, limit, "PROXY header");
  auto header = co_await net::read_message<proxy_protocol::Header>(client, proxy_protocol::decode);
  if (!header) co_return std::unexpected(std::move(header.error()).in("PROXY header"));
  co_return header->visitor;
}

}  // namespace ebb::inbound
