#include "worker/relay/vmess_codec.h"

#include <algorithm>

namespace ebb::relay {
namespace {

Decoded<Codec::Opened> open_body(vmess::BodyOpener& opener, MutSpan in) {
  const auto opened = opener.open(in);
  if (!opened) return std::unexpected{opened.error()};
  return Codec::Opened{opened->used, opened->payload, opened->end};
}

}  // namespace

Decoded<Codec::Opened> VmessServerCodec::open(MutSpan in) { return open_body(opener_, in); }

std::size_t VmessServerCodec::put_response(MutSpan out) {
  if (response_sent_) return 0;
  response_sent_ = true;
  return vmess::encode_response(keys_, out);
}

std::size_t VmessServerCodec::seal(std::span<const ConstSpan> parts, MutSpan out) {
  const std::size_t head = put_response(out);
  payload_sent_ = true;
  return head + sealer_.seal(parts, out.subspan(head));
}

std::size_t VmessServerCodec::seal_end(MutSpan out) {
  const std::size_t head = put_response(out);
  // Ended before any downlink byte: the header alone, no end chunk (spec/vmess.md 11).
  return payload_sent_ ? head + sealer_.seal_end(out.subspan(head)) : head;
}

std::unique_ptr<Codec> codec_from(const vmess::SessionState& state, crypto::RandomSource& random) {
  return std::make_unique<VmessServerCodec>(state.keys, state.request, state.response, state.response_sent, random);
}

std::size_t VmessClientCodec::seal_start(MutSpan out) {
  const ConstSpan request = handshake_.request();
  std::copy(request.begin(), request.end(), out.begin());
  return request.size();
}

Decoded<Codec::Opened> VmessClientCodec::open(MutSpan in) {
  if (opener_) return open_body(*opener_, in);
  const auto step = handshake_.response(in);
  if (!step) return std::unexpected{step.error()};
  if (!step->message) return Opened{};
  opener_.emplace(step->message->body);
  return Opened{step->used, {}, false};
}

}  // namespace ebb::relay
