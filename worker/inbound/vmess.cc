#include "worker/inbound/vmess.h"

#include <algorithm>

namespace ebb::inbound {
namespace {

/// Reads and discards until the connection has received `total` bytes, those in input() included, or has ended.
net::Task<Result<>> drain(net::Conversation& client, std::size_t total) {
  for (;;) {
    const std::size_t received = client.input().size();
    client.consume(received);
    if (received >= total) co_return Result<>();
    total -= received;
    auto more = co_await client.read_more();
    if (!more) co_return std::unexpected(std::move(more.error()));
  }
}

}  // namespace

net::Task<Result<VmessRequest>> accept_vmess(net::Conversation& client, const Gate& gate) {
  const net::Deadline deadline(client, gate.limit, "VMess handshake");
  vmess::ServerHandshake handshake(gate.users, gate.guard, gate.random, gate.options);
  for (;;) {
    const vmess::Verdict verdict = handshake.feed(client.input(), gate.unix_now());
    if (const auto* accepted = std::get_if<vmess::Accepted>(&verdict)) {
      client.consume(accepted->used);
      VmessRequest request;
      request.user = accepted->user;
      request.target = accepted->request.target;
      request.keys = accepted->request.keys;
      co_return request;
    }
    if (const auto* refused = std::get_if<vmess::Refused>(&verdict)) {
      const Error why{Errc::auth, std::string(name_of(refused->reason)), {}};
      if (refused->drain_total > 0) {
        // Whatever ends it: the reason for draining is what counts.
        [[maybe_unused]] const auto drained = co_await drain(client, refused->drain_total);
      }
      co_return std::unexpected(why);
    }
    auto more = co_await client.read_more();
    if (!more) {
      handshake.ended(gate.unix_now());
      co_return std::unexpected(std::move(more.error()));
    }
  }
}

}  // namespace ebb::inbound
