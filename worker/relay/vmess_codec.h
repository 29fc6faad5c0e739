// VMess as a Codec: the bodies of both directions, the headers in front of them. spec/vmess.md 7, 8.
#pragma once

#include <memory>
#include <optional>

#include "common/crypto/random.h"
#include "common/protocol/vmess/body.h"
#include "common/protocol/vmess/client.h"
#include "common/protocol/vmess/response.h"
#include "common/protocol/vmess/session_state.h"
#include "worker/relay/codec.h"

namespace ebb::relay {

/// A server's connection behind its request header. The response header goes out with the first downlink bytes, as
/// stock servers do it.
class VmessServerCodec final : public Codec {
 public:
  VmessServerCodec(const vmess::SessionKeys& keys, const vmess::BodyState& reading, const vmess::BodyState& writing,
                   bool response_sent, crypto::RandomSource& random)
      : keys_(keys), opener_(reading), sealer_(writing, random), response_sent_(response_sent) {}
  VmessServerCodec(const vmess::SessionKeys& keys, crypto::RandomSource& random)
      : VmessServerCodec(keys, vmess::request_body(keys), vmess::response_body(keys), false, random) {}

  Decoded<Opened> open(MutSpan in) override;
  bool eof_is_clean() const override { return opener_.at_boundary(); }
  std::size_t max_payload() const override { return sealer_.max_payload(); }
  std::size_t max_overhead() const override { return vmess::kMaxResponseBytes + vmess::BodySealer::kMaxOverhead; }
  std::size_t seal(std::span<const ConstSpan> parts, MutSpan out) override;
  std::size_t seal_start(MutSpan) override { return 0; }
  std::size_t seal_end(MutSpan out) override;

 private:
  std::size_t put_response(MutSpan out);

  vmess::SessionKeys keys_;
  vmess::BodyOpener opener_;
  vmess::BodySealer sealer_;
  bool response_sent_;
  bool payload_sent_ = false;
};

/// The server's codec that goes on where `state` was taken (a connection that came with an OFFER).
std::unique_ptr<Codec> codec_from(const vmess::SessionState& state, crypto::RandomSource& random);

/// A client's connection: request header first, response header in front of the downlink.
class VmessClientCodec final : public Codec {
 public:
  VmessClientCodec(const vmess::ClientHandshake& handshake, crypto::RandomSource& random)
      : handshake_(handshake), sealer_(vmess::request_body(handshake.keys()), random) {}

  Decoded<Opened> open(MutSpan in) override;
  bool eof_is_clean() const override { return opener_ && opener_->at_boundary(); }
  std::size_t max_payload() const override { return sealer_.max_payload(); }
  std::size_t max_overhead() const override { return kMaxRequest; }
  std::size_t seal(std::span<const ConstSpan> parts, MutSpan out) override { return sealer_.seal(parts, out); }
  std::size_t seal_start(MutSpan out) override;
  std::size_t seal_end(MutSpan out) override { return sealer_.seal_end(out); }

 private:
  static constexpr std::size_t kMaxRequest = 512;  // bytes; above every header and every chunk's overhead
  vmess::ClientHandshake handshake_;
  std::optional<vmess::BodyOpener> opener_;
  vmess::BodySealer sealer_;
};

}  // namespace ebb::relay
