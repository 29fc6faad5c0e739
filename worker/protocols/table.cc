#include "worker/protocols/table.h"

#include <array>
#include <utility>

#include "worker/inbound/fixed.h"
#include "worker/inbound/vmess.h"
#include "worker/layers/vmess/vmess.h"
#include "worker/outbound/freedom.h"
#include "worker/outbound/vmess.h"

namespace ebb::protocols {
namespace {

/// Which alternative of a variant `Settings` is.
template <class Settings, class... All>
constexpr std::size_t place_of(const std::variant<All...>*) {
  std::size_t at = 0;
  const bool found = ((std::is_same_v<Settings, All> || (++at, false)) || ...);
  return found ? at : kNone;
}
template <class Settings>
constexpr std::size_t kInbound = place_of<Settings>(static_cast<decltype(config::Inbound::protocol)*>(nullptr));
template <class Settings>
constexpr std::size_t kOutbound = place_of<Settings>(static_cast<decltype(config::Outbound::protocol)*>(nullptr));

constexpr std::array kProtocols{
    Protocol{.name = "dokodemo-door", .inbound = kInbound<config::DokodemoInbound>, .enter = inbound::enter_fixed},
    Protocol{.name = "vmess",
             .inbound = kInbound<config::VmessInbound>,
             .enter = inbound::enter_vmess,
             .outbound = kOutbound<config::VmessOutbound>,
             .way = outbound::vmess_way,
             .state = layers::kVmessState,
             .restore = layers::VmessServerLayer::restore},
    Protocol{.name = "freedom", .outbound = kOutbound<config::FreedomOutbound>, .way = outbound::freedom_way},
    Protocol{.name = "blackhole", .outbound = kOutbound<config::BlackholeOutbound>, .way = outbound::blackhole_way},
};

/// The only protocol for which `which` says yes; a test knows that there is one.
template <class Which>
const Protocol& find(Which which) {
  for (const Protocol& each : kProtocols) {
    if (which(each)) return each;
  }
  std::unreachable();
}

}  // namespace

std::span<const Protocol> all() { return kProtocols; }

Result<inbound::Entrance> enter(const config::Inbound& settings, const inbound::DoorKit& kit) {
  const std::size_t kind = settings.protocol.index();
  return find([&](const Protocol& each) { return each.inbound == kind; }).enter(settings, kit);
}

Result<outbound::Way> find_way(const config::Outbound& outbound, const Target& target, const outbound::WayKit& kit) {
  const std::size_t kind = outbound.protocol.index();
  return find([&](const Protocol& each) { return each.outbound == kind; }).way(outbound, target, kit);
}

bool save(const layers::Stack& layers, ConstSpan unread, ipc::BlobWriter& blob) {
  auto state = layers.save();
  if (!state) return false;
  Bytes unopened(unread.begin(), unread.end());
  for (std::size_t i = 0; i < state->levels.size(); ++i) {
    const auto& [layer, kept] = state->levels[i];
    if (layer.type != 0 && !blob.add(ipc::layer_tlv(layer.type), layer.bytes)) return false;
    if (kept.empty()) continue;
    // There is a place for what the lowest has not opened, and for what it has, to the second.
    if (i > 1) return false;
    if (i == 1 && !blob.add(ipc::Tlv::unread_plain, kept)) return false;
    if (i == 0) unopened.insert(unopened.begin(), kept.begin(), kept.end());
  }
  return unopened.empty() || blob.add(ipc::Tlv::unread_cipher, unopened);
}

Decoded<Travelling> restore(const ipc::StateBlob& blob, crypto::RandomSource& random) {
  Travelling out;
  const auto bytes_of = [&](ipc::Tlv type) {
    const auto value = blob.get(type);
    return value ? Bytes(value->begin(), value->end()) : Bytes();
  };
  out.unread = bytes_of(ipc::Tlv::unread_cipher);
  Bytes opened = bytes_of(ipc::Tlv::unread_plain);
  for (const ipc::Tlv type : blob.layers()) {
    const Protocol* known = nullptr;
    for (const Protocol& each : kProtocols) {
      if (each.restore != nullptr && ipc::layer_tlv(each.state) == type) known = &each;
    }
    if (known == nullptr) return std::unexpected{WireError{WireFault::bad_command, 0}};
    auto layer = known->restore(*blob.get(type), random);
    if (!layer) return std::unexpected{layer.error()};
    const bool second = out.layers.size() == 1;
    out.layers.push(std::move(*layer), second ? std::exchange(opened, {}) : Bytes());
  }
  if (opened.empty()) return out;
  // Nobody is left to open these. Without layers they are what the connection carries.
  if (!out.layers.empty() || !out.unread.empty()) return std::unexpected{WireError{WireFault::bad_option, 0}};
  out.unread = std::move(opened);
  return out;
}

}  // namespace ebb::protocols
