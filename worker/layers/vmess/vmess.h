// VMess as a layer: the bodies of both directions, the headers in front of them. The format: common/protocol/vmess.
#pragma once

#include <memory>
#include <optional>

#include "common/crypto/random.h"
#include "common/protocol/vmess/body.h"
#include "common/protocol/vmess/client.h"
#include "common/protocol/vmess/response.h"
#include "common/protocol/vmess/session_state.h"
#include "worker/layers/layer.h"

namespace ebb::layers {

/// The number of its state among those that travel (ipc/state_blob.h). Frozen: processes of two versions talk.
inline constexpr std::uint16_t kVmessState = 3;

/// A server's connection behind its request header. The response header goes out with the first downlink bytes, as
/// stock servers do it. Ciphers are made when the first byte comes or goes: many a connection only passes through.
class VmessServerLayer final : public Layer {
 public:
  /// `random` must outlive the layer.
  VmessServerLayer(const vmess::SessionState& state, crypto::RandomSource& random) : state_(state), random_(random) {}
  VmessServerLayer(const vmess::SessionKeys& keys, crypto::RandomSource& random)
      : VmessServerLayer({keys, vmess::request_body(keys), vmess::response_body(keys), false}, random) {}
  /// What save() of such a layer gave. Errors: as vmess::decode_state.
  static Decoded<std::unique_ptr<Layer>> restore(ConstSpan state, crypto::RandomSource& random);

  Decoded<Opened> open(MutSpan in) override;
  std::size_t max_kept() const override { return vmess::kMaxChunkBytes; }
  bool eof_is_clean() const override { return !opener_ || opener_->at_boundary(); }
  std::size_t max_payload() const override { return vmess::max_payload(state_.response); }
  std::size_t head(std::size_t payload) const override;
  std::size_t max_head() const override { return vmess::kMaxResponseBytes + vmess::BodySealer::kMaxPayloadOffset; }
  std::size_t max_tail() const override { return vmess::BodySealer::kMaxTail; }
  MutSpan seal(std::span<const ConstSpan> parts, MutSpan out, std::size_t at) override;
  std::size_t seal_end(MutSpan out) override;
  Saved save() const override;

 private:
  vmess::BodySealer& sealer();
  std::size_t response_bytes() const { return state_.response_sent ? 0 : vmess::response_bytes(state_.keys); }
  std::size_t put_response(MutSpan out);

  vmess::SessionState state_;  // its directions count until a cipher is there
  crypto::RandomSource& random_;
  std::optional<vmess::BodyOpener> opener_;
  std::optional<vmess::BodySealer> sealer_;
};

/// A client's connection: request header first, response header in front of the downlink.
class VmessClientLayer final : public Layer {
 public:
  VmessClientLayer(const vmess::ClientHandshake& handshake, crypto::RandomSource& random)
      : handshake_(handshake), sealer_(vmess::request_body(handshake.keys()), random) {}

  Decoded<Opened> open(MutSpan in) override;
  std::size_t max_kept() const override { return vmess::kMaxSealedResponse; }
  bool eof_is_clean() const override { return opener_ && opener_->at_boundary(); }
  std::size_t max_payload() const override { return sealer_.max_payload(); }
  std::size_t head(std::size_t) const override { return sealer_.payload_offset(); }
  std::size_t max_head() const override { return vmess::BodySealer::kMaxPayloadOffset; }
  std::size_t max_tail() const override { return vmess::BodySealer::kMaxTail; }
  MutSpan seal(std::span<const ConstSpan> parts, MutSpan out, std::size_t at) override;
  std::size_t owes() const override { return said_ ? 0 : handshake_.request().size(); }
  std::size_t speak(MutSpan out) override;
  std::size_t seal_end(MutSpan out) override { return sealer_.seal_end(out); }
  /// A client dials where it stays.
  Saved save() const override { return std::unexpected{Stays::never}; }

 private:
  vmess::ClientHandshake handshake_;
  bool said_ = false;
  std::optional<vmess::BodyOpener> opener_;
  vmess::BodySealer sealer_;
};

}  // namespace ebb::layers
