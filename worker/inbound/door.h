// An inbound of the configuration at work, whatever it speaks: from a connection just accepted to who and where to.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "common/base/address.h"
#include "common/base/result.h"
#include "common/base/time.h"
#include "common/crypto/random.h"
#include "common/net/conversation.h"
#include "common/net/task.h"
#include "ipc/replay_table.h"
#include "worker/layers/stack.h"

namespace ebb::inbound {

/// What a client has said, and what lies on his connection from here on.
struct Greeted {
  Target target;
  std::optional<std::size_t> user;  // index in the inbound's list
  layers::Stack layers;             // for the bytes behind his greeting, which the conversation still has
  bool mux = false;                 // he did not name a target: the streams inside will
};

/// Asks every client of one inbound. Outlives the conversations.
class Door {
 public:
  Door() = default;
  Door(const Door&) = delete;
  Door& operator=(const Door&) = delete;
  virtual ~Door() = default;

  /// The protocol, as logs name it.
  virtual std::string_view name() const = 0;
  /// The most a client may have unread while he is asked.
  virtual std::size_t max_unread() const = 0;
  /// The handshake. After an error close the connection plainly, at once. Errors: auth (for logs only), timeout,
  /// closed.
  virtual net::Task<Result<Greeted>> greet(net::Conversation& client) = 0;
  /// Told every few seconds: whatever depends on the hour.
  virtual void tick() {}
};

/// What doors are made with. All of it outlives them.
struct DoorKit {
  ipc::ReplayTable* replays = nullptr;  // null: there is none
  crypto::RandomSource& random;
  Duration limit;  // of a handshake, from accept
  UnixSeconds (*unix_now)();
};

/// How clients come in: asked by a door, or sent to a target that was fixed beforehand.
struct Entrance {
  std::optional<Target> fixed;
  std::unique_ptr<Door> door;  // null with a fixed target
};

}  // namespace ebb::inbound
