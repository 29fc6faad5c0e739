#include "worker/layers/vmess/vmess.h"

#include <algorithm>

namespace ebb::layers {
namespace {

Decoded<Layer::Opened> open_body(vmess::BodyOpener& opener, MutSpan in) {
  const auto opened = opener.open(in);
  if (!opened) return std::unexpected{opened.error()};
  return Layer::Opened{opened->used, opened->payload, opened->end};
}

/// One chunk whose payload lies at, or comes to, out[at].
MutSpan seal_body(vmess::BodySealer& sealer, std::span<const ConstSpan> parts, MutSpan out, std::size_t at) {
  const MutSpan chunk = out.subspan(at - sealer.payload_offset());
  return chunk.first(sealer.seal(parts, chunk));
}

}  // namespace

Decoded<std::unique_ptr<Layer>> VmessServerLayer::restore(ConstSpan state, crypto::RandomSource& random) {
  const auto decoded = vmess::decode_state(state);
  if (!decoded) return std::unexpected{decoded.error()};
  return std::make_unique<VmessServerLayer>(*decoded, random);
}

Decoded<Layer::Opened> VmessServerLayer::open(MutSpan in) {
  if (!opener_) opener_.emplace(state_.request);
  return open_body(*opener_, in);
}

vmess::BodySealer& VmessServerLayer::sealer() {
  if (!sealer_) sealer_.emplace(state_.response, random_);
  return *sealer_;
}

std::size_t VmessServerLayer::head(std::size_t) const {
  return response_bytes() + vmess::payload_offset(state_.response);
}

std::size_t VmessServerLayer::put_response(MutSpan out) {
  if (state_.response_sent) return 0;
  state_.response_sent = true;
  return vmess::encode_response(state_.keys, out);
}

MutSpan VmessServerLayer::seal(std::span<const ConstSpan> parts, MutSpan out, std::size_t at) {
  const std::size_t begin = at - head(0);
  const std::size_t response = put_response(out.subspan(begin));
  const MutSpan chunk = seal_body(sealer(), parts, out, at);
  return out.subspan(begin, response + chunk.size());
}

std::size_t VmessServerLayer::seal_end(MutSpan out) {
  // Ended before any downlink byte: the header alone, no end chunk.
  if (!state_.response_sent) return put_response(out);
  return sealer().seal_end(out);
}

Saved VmessServerLayer::save() const {
  vmess::SessionState state = state_;
  if (opener_) state.request = opener_->save();
  if (sealer_) state.response = sealer_->save();
  if (!vmess::movable(state)) return std::unexpected{Stays::never};
  const auto bytes = vmess::encode_state(state);
  return LayerState{kVmessState, Bytes(bytes.begin(), bytes.end())};
}

MutSpan VmessClientLayer::seal(std::span<const ConstSpan> parts, MutSpan out, std::size_t at) {
  return seal_body(sealer_, parts, out, at);
}

std::size_t VmessClientLayer::speak(MutSpan out) {
  said_ = true;
  const ConstSpan request = handshake_.request();
  std::copy(request.begin(), request.end(), out.begin());
  return request.size();
}

Decoded<Layer::Opened> VmessClientLayer::open(MutSpan in) {
  if (opener_) return open_body(*opener_, in);
  const auto step = handshake_.response(in);
  if (!step) return std::unexpected{step.error()};
  if (!step->message) return Opened{};
  opener_.emplace(step->message->body);
  return Opened{step->used, {}, false};
}

}  // namespace ebb::layers
