// All addresses the service holds, over reloads: the same sockets for as long as an address lives. spec/processes.md
// 3.1, 3.5, 9.1.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "supervisor/slots/slots.h"

namespace ebb::supervisor {

class SlotBook {
 public:
  struct Address {
    std::uint32_t number = 0;  // SLOT_GRANT's listener
    std::vector<Slot> slots;
    bool listening = false;
    bool retired = false;
  };
  using Ours = std::function<bool(int pid)>;

  /// Takes a listening socket over that another supervisor made; it keeps its id. False: it is none, or its cookie is
  /// another one, so it is not what it was said to be; then it is closed.
  bool adopt(Slot slot);

  /// Binds the addresses of `wanted` that are not held yet, `per_address` slots each; listen() comes later. All or
  /// nothing: one sentence per problem, then nothing was changed. `ours` tells processes of this service, who may still
  /// hold an address of an earlier configuration.
  std::vector<std::string> add(const std::vector<Listener>& wanted, unsigned per_address, const Ours& ours);
  /// Those of `wanted` that do not listen yet. Errors: os, naming the listener.
  Result<> listen(const std::vector<Listener>& wanted);

  /// Whether an address is held that `wanted` does not have.
  bool has_more_than(const std::vector<Listener>& wanted) const;
  /// Those let nobody in any more, those queued can still be accepted. For every holder, until restore().
  void retire_all_but(const std::vector<Listener>& wanted);
  /// `whoever`: also what another process retired.
  void restore(bool whoever = false);
  /// Those are closed, our copies; returns the ids of their slots.
  std::vector<std::uint32_t> close_all_but(const std::vector<Listener>& wanted);

  const Address* find(const Place& place) const;
  const std::map<Place, Address>& addresses() const { return addresses_; }
  std::vector<std::uint32_t> slot_ids() const;

 private:
  std::map<Place, Address> addresses_;
  std::uint32_t next_number_ = 0;
  std::uint32_t next_slot_ = 0;
};

}  // namespace ebb::supervisor
