#include "common/protocol/vmess/client.h"

#include <gtest/gtest.h>

#include "common/protocol/vmess/memory_replay.h"
#include "common/protocol/vmess/server.h"
#include "tests/unit/protocol/vmess/vector_support.h"

namespace ebb::vmess {
namespace {

constexpr UnixSeconds kNow = 1'800'000'000;
const User kUser{UserId{{0xAB, 1, 2, 3}}, 2};

TEST(Client, UnderstandsWhatTheRealServerSent) {
  for (const auto& entry : test::load_vectors("vmess/live_server.json")["vectors"]) {
    SCOPED_TRACE(entry["name"].text());
    const SessionKeys keys = keys_of(entry);
    const Bytes wire = entry["server_bytes"].hex();
    const auto header = decode_response(keys, wire);
    ASSERT_TRUE(header && header->message);
    const OpenedBody body = open_whole(header->message->body, ConstSpan(wire).subspan(header->used));
    EXPECT_FALSE(body.error);
    EXPECT_TRUE(body.clean);
    const auto wanted = hex_list(entry["response_payload"]);
    if (keys.packet_mode() && header->message->body.framed()) {
      EXPECT_EQ(body.pieces, wanted);
    } else {
      EXPECT_EQ(body.joined(), joined(wanted));
    }
    if (!entry.has("client_bytes")) continue;
    // What the independent client had sent, through our server.
    UserTable users =
        UserTable::make({User{user_id(entry), static_cast<std::uint16_t>(entry["alter_id"].number())}}).value();
    MemoryReplayGuard guard;
    crypto::SeededRandom random(1);
    users.advance(entry["now"].number());
    ServerHandshake handshake(users, guard, random);
    const Bytes sent = entry["client_bytes"].hex();
    const Verdict verdict = handshake.feed(sent, entry["now"].number());
    const auto* accepted = std::get_if<Accepted>(&verdict);
    ASSERT_TRUE(accepted);
    EXPECT_EQ(accepted->request.keys, keys);
    if (!entry.has("request_payload")) continue;
    const OpenedBody request = open_whole(request_body(keys), ConstSpan(sent).subspan(accepted->used));
    EXPECT_FALSE(request.error);
    EXPECT_EQ(request.joined(), joined(hex_list(entry["request_payload"])));
  }
}

TEST(Client, SpeaksWithOurServerBothWays) {
  const Target name{Network::tcp, std::string("tunnel.example"), 0};
  const Target udp{Network::udp, IpAddress::from_v4({192, 0, 2, 9}), 53};
  const Target mux{Network::tcp, std::string("v1.mux.cool"), 9527};
  UserTable users = UserTable::make({kUser}).value();
  users.advance(kNow);
  MemoryReplayGuard guard;
  crypto::SeededRandom random(4);
  for (const Security security : {Security::cfb, Security::aes_128_gcm, Security::chacha20_poly1305, Security::none}) {
    for (const bool legacy : {false, true}) {
      for (const auto& [target, command] : {std::pair{name, Command::tcp}, {udp, Command::udp}, {mux, Command::mux}}) {
        const ClientOptions options{kUser, security, usual_options(security), legacy};
        const auto client = ClientHandshake::make(options, target, kNow, random);
        ASSERT_TRUE(client);
        ServerHandshake handshake(users, guard, random);
        const Verdict verdict = handshake.feed(client->request(), kNow);
        const auto* accepted = std::get_if<Accepted>(&verdict);
        ASSERT_TRUE(accepted);
        EXPECT_EQ(accepted->used, client->request().size());
        EXPECT_EQ(accepted->request.keys, client->keys());
        EXPECT_EQ(client->keys().command, command);
        EXPECT_EQ(accepted->request.target.host, target.host);
        EXPECT_EQ(accepted->request.target.port, command == Command::mux ? 0 : target.port);
        // Down: header and a chunk in one piece.
        Bytes down(400);
        std::size_t n = encode_response(accepted->request.keys, down);
        BodySealer sealer(response_body(accepted->request.keys), random);
        n += sealer.seal(as_bytes("from the server"), MutSpan(down).subspan(n));
        n += sealer.seal_end(MutSpan(down).subspan(n));
        down.resize(n);
        const auto header = client->response(down);
        ASSERT_TRUE(header && header->message);
        const OpenedBody body = open_whole(header->message->body, ConstSpan(down).subspan(header->used));
        EXPECT_TRUE(body.end);
        EXPECT_EQ(as_text(body.joined()), "from the server");
      }
    }
  }
}

TEST(Client, RefusesWhatWouldHurtAPeer) {
  crypto::SeededRandom random(1);
  ClientOptions options{kUser};
  const Target target{Network::tcp, std::string("a.example"), 80};
  options.options = option::chunk_stream | option::padding;  // crashes V2Ray 4 servers
  EXPECT_EQ(ClientHandshake::make(options, target, kNow, random).error().fault, WireFault::bad_option);
  options.options = usual_options(options.security);
  const Target long_name{Network::tcp, std::string(256, 'a'), 80};
  EXPECT_EQ(ClientHandshake::make(options, long_name, kNow, random).error().fault, WireFault::bad_address);
}

TEST(Client, DrainsOnlyWhenTheHeaderCannotBeOpened) {
  crypto::SeededRandom random(1);
  const Target target{Network::tcp, std::string("a.example"), 80};
  const auto client = ClientHandshake::make(ClientOptions{kUser}, target, kNow, random).value();
  const auto limits = DrainLimits::client(kUser.id);
  const std::size_t total = client.drain_total({WireFault::bad_tag, 0}, random);
  EXPECT_GE(total, 18u + limits.base);
  EXPECT_LT(total, 18u + limits.base + limits.spread);
  EXPECT_EQ(client.drain_total({WireFault::bad_command, 0}, random), 0u);
}

TEST(Client, PaddingAndLegacyTimesCoverTheirRanges) {
  crypto::SeededRandom random(1);
  const Target target{Network::tcp, std::string("a.example"), 80};
  std::size_t shortest = 10'000;
  std::size_t longest = 0;
  for (int i = 0; i < 300; ++i) {
    const auto client = ClientHandshake::make(ClientOptions{kUser}, target, kNow, random).value();
    shortest = std::min(shortest, client.request().size());
    longest = std::max(longest, client.request().size());
  }
  EXPECT_EQ(longest - shortest, 15u);

  UserTable users = UserTable::make({kUser}).value();
  users.advance(kNow);
  bool seen[60] = {};
  for (int i = 0; i < 2000; ++i) {
    const auto client =
        ClientHandshake::make(ClientOptions{.user = kUser, .legacy = true}, target, kNow, random).value();
    Block16 auth;
    std::copy_n(client.request().begin(), 16, auth.begin());
    EXPECT_NE(auth, legacy_auth(kUser.id, kNow));
    const auto match = users.match_legacy(auth, kNow);
    ASSERT_TRUE(match);
    const auto jitter = match->time - kNow;
    ASSERT_GE(jitter, -30);
    ASSERT_LE(jitter, 29);
    seen[jitter + 30] = true;
  }
  EXPECT_TRUE(std::ranges::all_of(seen, [](bool one) { return one; }));
}

}  // namespace
}  // namespace ebb::vmess
