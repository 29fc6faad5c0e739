// The one list of protocols: what each of them is in the configuration, at the door, on a connection that travels, and
// on the way out. Whoever adds a protocol adds a line to table.cc; nothing else names one.
//
//   configuration  ->  Entrance, whose door makes of a client  ->  Greeted {target, user, layers}
//   layers         <-> TLVs of a state blob
//   configuration, target  ->  Way {where to dial, layers}
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "common/config/config.h"
#include "common/crypto/random.h"
#include "ipc/state_blob.h"
#include "worker/inbound/door.h"
#include "worker/layers/stack.h"
#include "worker/outbound/way.h"

namespace ebb::protocols {

inline constexpr std::size_t kNone = static_cast<std::size_t>(-1);

struct Protocol {
  std::string_view name;  // as the configuration spells it
  // As an inbound: which alternative of config::Inbound::protocol it is, and how clients of it come in.
  std::size_t inbound = kNone;
  Result<inbound::Entrance> (*enter)(const config::Inbound&, const inbound::DoorKit&) = nullptr;
  // As an outbound: which alternative of config::Outbound::protocol, and how it reaches a target.
  std::size_t outbound = kNone;
  outbound::FindWay way = nullptr;
  // As a layer that travels: the type of its state, and what makes the layer of it again.
  std::uint16_t state = 0;
  Decoded<std::unique_ptr<layers::Layer>> (*restore)(ConstSpan, crypto::RandomSource&) = nullptr;
};

std::span<const Protocol> all();

/// How clients of an inbound come in. Errors: config (users that cannot be used), protocol (what it needs is missing).
Result<inbound::Entrance> enter(const config::Inbound& settings, const inbound::DoorKit& kit);

/// An outbound::FindWay for every outbound.
Result<outbound::Way> find_way(const config::Outbound& outbound, const Target& target, const outbound::WayKit& kit);

/// A connection as it travels: its layers, and what they have not opened.
struct Travelling {
  layers::Stack layers;
  Bytes unread;  // of the lowest
};

/// Adds layers and `unread`, which the lowest has yet to open. False: the connection cannot travel now; what was added
/// means nothing.
bool save(const layers::Stack& layers, ConstSpan unread, ipc::BlobWriter& blob);
/// The reverse. Errors: bad_command (a layer nobody here knows), and those of the layers: nothing in a blob is trusted.
Decoded<Travelling> restore(const ipc::StateBlob& blob, crypto::RandomSource& random);

}  // namespace ebb::protocols
