#include "worker/inbound/vmess.h"

#include <algorithm>
#include <utility>

#include "worker/inbound/replay_guard.h"
#include "worker/layers/vmess/vmess.h"

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

namespace {

class VmessDoor final : public Door {
 public:
  VmessDoor(vmess::UserTable users, bool refuse_insecure, const DoorKit& kit)
      : users_(std::move(users)),
        guard_(*kit.replays),
        gate_{users_, guard_, kit.random, {refuse_insecure}, kit.limit, kit.unix_now} {
    tick();
  }

  std::string_view name() const override { return "vmess"; }
  std::size_t max_unread() const override { return kMaxHandshakeBytes; }
  void tick() override { users_.advance(gate_.unix_now()); }
  net::Task<Result<Greeted>> greet(net::Conversation& client) override {
    auto accepted = co_await accept_vmess(client, gate_);
    if (!accepted) co_return std::unexpected(std::move(accepted.error()));
    const std::string* name = accepted->target.name();
    Greeted out;
    out.mux = accepted->keys.command == vmess::Command::mux || (name != nullptr && *name == vmess::kMuxHost);
    out.target = std::move(accepted->target);
    out.user = accepted->user;
    out.layers.push(std::make_unique<layers::VmessServerLayer>(accepted->keys, gate_.random));
    co_return Result<Greeted>(std::move(out));
  }

 private:
  vmess::UserTable users_;
  SharedReplayGuard guard_;
  Gate gate_;
};

}  // namespace

Result<Entrance> enter_vmess(const config::Inbound& settings, const DoorKit& kit) {
  const auto& door = std::get<config::VmessInbound>(settings.protocol);
  std::vector<vmess::User> users;
  users.reserve(door.users.size());
  for (const auto& user : door.users) users.push_back({user.id, user.alter_id});
  auto table = vmess::UserTable::make(users);
  if (!table) return std::unexpected(std::move(table.error()));
  if (kit.replays == nullptr) {
    return std::unexpected(Error{Errc::protocol, "VMess needs the replay table, which did not come", {}});
  }
  return Entrance{std::nullopt, std::make_unique<VmessDoor>(std::move(*table), door.refuse_insecure, kit)};
}

}  // namespace ebb::inbound
