// A stranger's bytes into the server's handshake, and what follows an accepted header into its body. Input: one byte
// that chooses what is built around the rest (so that the fuzzer gets past the cryptography), one for the sizes of
// pieces, then raw bytes, a plaintext header to be sealed properly, or a valid header followed by a body.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "common/crypto/aes.h"
#include "common/protocol/vmess/body.h"
#include "common/protocol/vmess/memory_replay.h"
#include "common/protocol/vmess/server.h"

using namespace ebb;
using namespace ebb::vmess;

namespace {

constexpr UnixSeconds kNow = 1'800'000'000;
const User kUser{UserId{{0xAB, 1, 2, 3}}, 2};

Bytes sealed(ConstSpan plain, bool legacy) {
  const Block16 cmd_key = command_key(kUser.id);
  Bytes wire(kAeadHeadBytes + plain.size() + 16);
  if (legacy) {
    wire.resize(seal_legacy_request(cmd_key, next_alter_id(kUser.id), kNow, plain, wire));
  } else {
    crypto::AesBlock aes(auth_id_key(cmd_key), crypto::AesBlock::Use::encrypt);
    wire.resize(seal_request(cmd_key, aes.apply(auth_id_plain(kNow, {1, 2, 3, 4})), {}, plain, wire));
  }
  return wire;
}

void read_body(BodyOpener& opener, Bytes rest) {
  for (;;) {
    const auto opened = opener.open(rest);
    if (!opened || opened->end) return;
    if (opened->used == 0) {
      if (opener.wanted() <= rest.size() || opener.wanted() > kMaxChunkBytes) std::abort();
      return;
    }
    if (opened->payload.empty() || opened->used > rest.size()) std::abort();
    rest.erase(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(opened->used));
    opener = BodyOpener(opener.save());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  static UserTable users = [] {
    UserTable table = UserTable::make({User{UserId{{7}}, 0}, kUser}).value();
    table.advance(kNow);
    return table;
  }();
  const ConstSpan input(data + 2, size - 2);
  const bool legacy = (data[0] & 4) != 0;
  Bytes wire;
  switch (data[0] & 3) {
    case 0: wire.assign(input.begin(), input.end()); break;
    case 1: wire = sealed(input.first(std::min<std::size_t>(input.size(), 3000)), legacy); break;
    default: {  // the first 38 bytes are the fields, the checksum is made to fit
      Bytes plain(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(input.size(), 400)));
      const std::size_t needed = request_bytes_needed(plain);
      if (plain.size() < needed) plain.resize(needed);
      if (request_bytes_needed(plain) != needed) return 0;
      store_be32(MutSpan(plain).subspan(needed - 4), crypto::fnv1a(ConstSpan(plain).first(needed - 4)));
      wire = sealed(ConstSpan(plain).first(needed), legacy);
      const ConstSpan body = input.subspan(std::min(input.size(), needed));
      wire.insert(wire.end(), body.begin(), body.end());
    }
  }
  MemoryReplayGuard guard(100);
  crypto::SeededRandom random(1);
  ServerHandshake handshake(users, guard, random, ServerOptions{(data[0] & 8) != 0});
  const std::size_t piece = 1 + data[1];
  for (std::size_t fed = 0;;) {
    fed = std::min(wire.size(), fed + piece);
    const Verdict verdict = handshake.feed(ConstSpan(wire).first(fed), kNow);
    if (const auto* accepted = std::get_if<Accepted>(&verdict)) {
      if (accepted->used > fed) std::abort();
      BodyOpener opener(request_body(accepted->request.keys));
      read_body(opener, Bytes(wire.begin() + static_cast<std::ptrdiff_t>(accepted->used), wire.end()));
      return 0;
    }
    if (std::holds_alternative<Refused>(verdict)) return 0;
    if (fed == wire.size()) {
      if (fed > kMaxRequestBytes) std::abort();  // nothing may keep a server reading for ever
      handshake.ended(kNow);
      return 0;
    }
  }
}
