#include "common/protocol/vmess/server.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>

#include "common/protocol/vmess/client.h"
#include "common/protocol/vmess/memory_replay.h"
#include "tests/unit/protocol/vmess/vector_support.h"

namespace ebb::vmess {
namespace {

struct Server {
  explicit Server(std::vector<User> list, ServerOptions chosen = {})
      : users(UserTable::make(std::move(list)).value()), options(chosen) {}
  ServerHandshake handshake() { return ServerHandshake(users, guard, random, options); }
  /// One connection that receives everything at once.
  Verdict connect(ConstSpan bytes, UnixSeconds now) {
    users.advance(now);
    return handshake().feed(bytes, now);
  }
  UserTable users;
  ServerOptions options;
  MemoryReplayGuard guard;
  crypto::SeededRandom random{1};
};

Refusal reason_of(const Verdict& verdict) { return std::get<Refused>(verdict).reason; }

void check_body(const test::Json& entry, const Accepted& accepted, ConstSpan wire) {
  const auto& expect = entry["expect"];
  const OpenedBody body = open_whole(request_body(accepted.request.keys), wire.subspan(accepted.used));
  const std::vector<Bytes> wanted = hex_list(expect["payload"]);
  if (expect["body_end"].text() == "normal") {
    EXPECT_FALSE(body.error);
    EXPECT_TRUE(body.clean);
    EXPECT_EQ(body.joined(), joined(wanted));
    if (accepted.request.keys.packet_mode()) {
      EXPECT_EQ(body.pieces, wanted);
    }
  } else {
    EXPECT_TRUE(body.error || !body.clean);
    const Bytes got = body.joined();
    const Bytes all = joined(wanted);
    ASSERT_LE(got.size(), all.size());
    EXPECT_TRUE(std::equal(got.begin(), got.end(), all.begin()));
  }
}

/// Feeds in pieces; the verdict must be the same however the bytes are cut.
Verdict feed_in_pieces(ServerHandshake& handshake, ConstSpan bytes, UnixSeconds now, crypto::RandomSource& random,
                       std::uint32_t longest) {
  std::size_t fed = 0;
  for (;;) {
    fed = std::min(bytes.size(), fed + 1 + random.below(longest));
    Verdict verdict = handshake.feed(bytes.first(fed), now);
    if (!std::holds_alternative<NeedMore>(verdict) || fed == bytes.size()) return verdict;
  }
}

class BadVectors : public testing::TestWithParam<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Pieces, BadVectors, testing::Values(1, 7, 100, 100'000));

TEST_P(BadVectors, EveryVerdictIsTheSpecified) {
  std::map<std::string, std::unique_ptr<Server>> servers;
  crypto::SeededRandom random(2);
  for (const auto& entry : test::load_vectors("vmess/bad.json")["vectors"]) {
    SCOPED_TRACE(entry["name"].text());
    auto& server = servers[entry["group"].text()];
    const UnixSeconds now = entry["now"].number();
    if (!server) {
      server = std::make_unique<Server>(
          std::vector{User{user_id(entry), static_cast<std::uint16_t>(entry["server_alter_id"].number())}});
    }
    server->users.advance(now);
    Bytes wire = entry["client_bytes"].hex();
    wire.resize(wire.size() + static_cast<std::size_t>(entry["then_zero_bytes"].number()));
    auto handshake = server->handshake();
    const Verdict verdict = feed_in_pieces(handshake, wire, now, random, GetParam());
    const auto& expect = entry["expect"];
    if (expect["result"].text() == "accepted") {
      const auto* accepted = std::get_if<Accepted>(&verdict);
      ASSERT_TRUE(accepted);
      EXPECT_EQ(accepted->user, 0u);
      for (const auto& [peer, upstream] : entry["upstream"].members()) {
        if (upstream.has("dest")) {
          // V2Ray's text for a host; only the common cases look like ours.
          const std::string& dest = upstream["dest"].text();
          EXPECT_EQ(accepted->request.target.text(), dest) << peer;
        }
        if (upstream.has("option")) {
          EXPECT_EQ(accepted->request.keys.options, upstream["option"].number()) << peer;
        }
      }
      if (expect.has("body_end")) check_body(entry, *accepted, wire);
      continue;
    }
    const std::string& close = expect["close"].text();
    if (const auto* refused = std::get_if<Refused>(&verdict)) {
      EXPECT_NE(close, "short read");
      if (close == "drain") {
        const auto& limits = server->users.drain();
        EXPECT_GE(refused->drain_total, 54u + limits.base);
        EXPECT_LT(refused->drain_total, 54u + limits.base + limits.spread);
      } else {
        EXPECT_EQ(refused->drain_total, 0u);
      }
    } else {
      // The vector ends here: whoever drains and whoever waits for the rest look alike.
      EXPECT_TRUE(std::holds_alternative<NeedMore>(verdict));
      EXPECT_EQ(entry["then_zero_bytes"].number(), 0);
      EXPECT_NE(close, "immediate");
      handshake.ended(now);
    }
  }
}

TEST(Server, AcceptsEveryRecordedSessionInAnyPieces) {
  crypto::SeededRandom random(3);
  for (const auto& entry : test::load_vectors("vmess/sessions.json")["vectors"]) {
    SCOPED_TRACE(entry["name"].text());
    const SessionKeys wanted = keys_of(entry);
    const auto alter_id = static_cast<std::uint16_t>(entry["alter_id"].number());
    const Bytes header = entry["request_header"].hex();
    Bytes wire = header;
    wire.push_back(0x77);
    // Another user stands first, to be passed over.
    const User other{UserId{{1, 2, 3}}, 0};
    for (const std::uint32_t longest : {1u, 50u, 10'000u}) {
      Server server({other, User{user_id(entry), alter_id}});
      server.users.advance(entry["now"].number());
      auto handshake = server.handshake();
      const Verdict verdict = feed_in_pieces(handshake, wire, entry["now"].number(), random, longest);
      if (wanted.legacy && alter_id == 0) {
        EXPECT_EQ(reason_of(verdict), Refusal::unknown_user);  // ours: legacy only where alterId > 0
        continue;
      }
      const auto* accepted = std::get_if<Accepted>(&verdict);
      ASSERT_TRUE(accepted);
      EXPECT_EQ(accepted->user, 1u);
      EXPECT_EQ(accepted->used, header.size());
      EXPECT_EQ(accepted->request.keys, wanted);
    }
  }
}

TEST(Server, UnderstandsWhatTheRealClientSent) {
  for (const auto& entry : test::load_vectors("vmess/live_client.json")["vectors"]) {
    SCOPED_TRACE(entry["name"].text());
    Server server({User{user_id(entry), static_cast<std::uint16_t>(entry["alter_id"].number())}});
    const Bytes wire = entry["client_bytes"].hex();
    const Verdict verdict = server.connect(wire, entry["now"].number());
    const auto* accepted = std::get_if<Accepted>(&verdict);
    ASSERT_TRUE(accepted);
    const SessionKeys& keys = accepted->request.keys;
    const auto& expect = entry["expect"];
    EXPECT_EQ(keys.legacy, expect["header"].text() == "legacy");
    if (!expect.has("command")) continue;
    EXPECT_EQ(keys.options, expect["option"].number());
    EXPECT_EQ(static_cast<int>(keys.security), expect["security"].number());
    EXPECT_EQ(static_cast<int>(keys.command), expect["command"].number());
    if (expect.has("address")) {
      EXPECT_EQ(host_text(accepted->request.target.host), expect["address"].text());
      EXPECT_EQ(accepted->request.target.port, expect["port"].number());
    }
    const OpenedBody body = open_whole(request_body(keys), ConstSpan(wire).subspan(accepted->used));
    EXPECT_FALSE(body.error);
    EXPECT_TRUE(body.clean);
    EXPECT_EQ(body.end, expect["ended"].text() == "end-chunk");
    const auto wanted = hex_list(entry["payload"]);
    if (keys.packet_mode()) {
      EXPECT_EQ(body.pieces, wanted);
    } else {
      EXPECT_EQ(body.joined(), joined(wanted));
    }
    // And what an independent server answered, which V2Ray took.
    const Bytes answer = entry["server_bytes"].hex();
    const auto response = decode_response(keys, answer);
    ASSERT_TRUE(response && response->message);
    const OpenedBody back = open_whole(response->message->body, ConstSpan(answer).subspan(response->used));
    EXPECT_FALSE(back.error);
    EXPECT_TRUE(back.clean);
  }
}

const User kUser{UserId{{0xAB, 1, 2, 3}}, 0};
const User kLegacyUser{UserId{{0xCD, 1, 2, 3}}, 3};
const Target kTarget{Network::tcp, std::string("a.example"), 80};
constexpr UnixSeconds kNow = 1'800'000'000;

Bytes request_from(const User& user, UnixSeconds now, crypto::RandomSource& random, bool legacy = false,
                   Security security = Security::aes_128_gcm) {
  ClientOptions options{user, security, usual_options(security), legacy};
  const auto client = ClientHandshake::make(options, kTarget, now, random).value();
  return Bytes(client.request().begin(), client.request().end());
}

TEST(Server, TimeWindowIsExact) {
  Server server({kUser});
  for (const int offset : {-121, -120, 0, 120, 121}) {
    const bool good = std::abs(offset) <= 120;
    const Verdict verdict = server.connect(request_from(kUser, kNow + offset, server.random), kNow);
    EXPECT_EQ(std::holds_alternative<Accepted>(verdict), good) << offset;
    if (!good) {
      EXPECT_EQ(reason_of(verdict), Refusal::unknown_user);
    }
  }
}

TEST(Server, RemembersAnAuthIdAsLongAsItsTimeIsGood) {
  Server server({kUser});
  const Bytes request = request_from(kUser, kNow + 120, server.random);  // a clock that is ahead
  EXPECT_TRUE(std::holds_alternative<Accepted>(server.connect(request, kNow)));
  for (const int later : {0, 1, 179, 181, 240}) {
    EXPECT_EQ(reason_of(server.connect(request, kNow + later)), Refusal::replay) << later;
  }
  EXPECT_EQ(reason_of(server.connect(request, kNow + 241)), Refusal::unknown_user);
}

TEST(Server, AFullGuardRefusesInsteadOfForgetting) {
  Server server({kUser});
  server.guard = MemoryReplayGuard(2);  // one connection: AuthID and session
  EXPECT_TRUE(std::holds_alternative<Accepted>(server.connect(request_from(kUser, kNow, server.random), kNow)));
  EXPECT_EQ(reason_of(server.connect(request_from(kUser, kNow, server.random), kNow)), Refusal::replay);
  const UnixSeconds later = kNow + 300;
  EXPECT_TRUE(std::holds_alternative<Accepted>(server.connect(request_from(kUser, later, server.random), later)));
}

TEST(Server, RefusesInsecureCiphersWhenTold) {
  Server server({kUser}, {.refuse_insecure = true});
  for (const Security security : {Security::cfb, Security::none}) {
    const Verdict verdict = server.connect(request_from(kUser, kNow, server.random, false, security), kNow);
    EXPECT_EQ(reason_of(verdict), Refusal::insecure);
    EXPECT_EQ(std::get<Refused>(verdict).drain_total, 0u);
  }
  EXPECT_TRUE(std::holds_alternative<Accepted>(server.connect(request_from(kUser, kNow, server.random), kNow)));
}

TEST(Server, DrainsToTheSameRangeWhateverWasWrong) {
  Server server({kUser, kLegacyUser});
  const auto& limits = server.users.drain();
  std::vector<Bytes> probes;
  probes.emplace_back(16, 0x55);                                              // noise
  probes.push_back(request_from(User{UserId{{9}}, 0}, kNow, server.random));  // unknown user
  probes.push_back(request_from(kUser, kNow - 500, server.random));           // old
  Bytes damaged = request_from(kUser, kNow, server.random);
  damaged[20] ^= 1;
  probes.push_back(damaged);
  for (const Bytes& probe : probes) {
    const Verdict verdict = server.connect(probe, kNow);
    const auto* refused = std::get_if<Refused>(&verdict);
    ASSERT_TRUE(refused);
    EXPECT_GE(refused->drain_total, 54u + limits.base);
    EXPECT_LT(refused->drain_total, 54u + limits.base + limits.spread);
  }
}

TEST(LegacyServer, TakesMainAndAlterIdsInTheWindow) {
  Server server({kUser, kLegacyUser});
  for (int i = 0; i < 30; ++i) {
    const Verdict verdict = server.connect(request_from(kLegacyUser, kNow, server.random, true), kNow);
    ASSERT_TRUE(std::holds_alternative<Accepted>(verdict));
    EXPECT_TRUE(std::get<Accepted>(verdict).request.keys.legacy);
    EXPECT_EQ(std::get<Accepted>(verdict).user, 1u);
  }
  const User as_main{kLegacyUser.id, 0};  // a client that uses the main id
  EXPECT_TRUE(std::holds_alternative<Accepted>(server.connect(request_from(as_main, kNow, server.random, true), kNow)));
  EXPECT_EQ(reason_of(server.connect(request_from(kUser, kNow, server.random, true), kNow)), Refusal::unknown_user);
  EXPECT_EQ(reason_of(server.connect(request_from(kLegacyUser, kNow - 200, server.random, true), kNow)),
            Refusal::unknown_user);
}

TEST(LegacyServer, AHeaderThatEndsInItsPaddingTaintsItsAuth) {
  Server server({kLegacyUser});
  const Bytes request = request_from(kLegacyUser, kNow, server.random, true);
  server.users.advance(kNow);
  const auto cut_at = [&](std::size_t size) {
    auto handshake = server.handshake();
    EXPECT_TRUE(std::holds_alternative<NeedMore>(handshake.feed(ConstSpan(request).first(size), kNow)));
    handshake.ended(kNow);
  };
  const Block16 auth = [&] {
    Block16 out;
    std::copy_n(request.begin(), 16, out.begin());
    return out;
  }();
  cut_at(16);
  cut_at(16 + 37);
  EXPECT_FALSE(server.guard.contains(ReplayGuard::Kind::taint, auth, kNow));
  Server fresh({kLegacyUser});
  fresh.users.advance(kNow);
  auto handshake = fresh.handshake();
  handshake.feed(ConstSpan(request).first(request.size() - 1), kNow);
  handshake.ended(kNow);
  EXPECT_TRUE(fresh.guard.contains(ReplayGuard::Kind::taint, auth, kNow));
  EXPECT_EQ(reason_of(fresh.connect(request, kNow)), Refusal::unknown_user);
  EXPECT_EQ(reason_of(fresh.connect(request, kNow + 60)), Refusal::unknown_user);
}

TEST(LegacyServer, TheTableRollsWithTheClock) {
  Server server({kLegacyUser});
  EXPECT_EQ(server.users.advance(kNow), 0u);
  for (UnixSeconds now = kNow; now < kNow + 600; now += 7) {
    EXPECT_EQ(server.users.advance(now), 0u);
    for (const int offset : {-120, -1, 0, 120}) {
      EXPECT_TRUE(server.users.match_legacy(legacy_auth(kLegacyUser.id, now + offset), now)) << offset;
    }
    EXPECT_FALSE(server.users.match_legacy(legacy_auth(kLegacyUser.id, now - 121), now));
  }
  // Backwards, and far away: the steps nearest to now come first, as many as the caller allows.
  const UnixSeconds past = kNow - 100'000;
  EXPECT_EQ(server.users.advance(past, 61), 241u - 61u);
  EXPECT_TRUE(server.users.match_legacy(legacy_auth(kLegacyUser.id, past - 30), past));
  EXPECT_TRUE(server.users.match_legacy(legacy_auth(kLegacyUser.id, past + 30), past));
  EXPECT_FALSE(server.users.match_legacy(legacy_auth(kLegacyUser.id, past + 31), past));
  EXPECT_EQ(server.users.advance(past), 0u);
  EXPECT_TRUE(server.users.match_legacy(legacy_auth(kLegacyUser.id, past + 31), past));
}

TEST(UserTable, TooManyAlterIdsAreAConfigurationError) {
  std::vector<User> users;
  for (std::uint8_t i = 0; i < 2; ++i) users.push_back(User{UserId{{i}}, 40'000});
  const auto table = UserTable::make(users);
  ASSERT_FALSE(table);
  EXPECT_EQ(table.error().code, Errc::config);
}

TEST(MemoryReplayGuard, ForgetsOnTimeAndKeepsKindsApart) {
  MemoryReplayGuard guard(3);
  using Kind = ReplayGuard::Kind;
  EXPECT_TRUE(guard.insert(Kind::auth_id, as_bytes("a"), 10, 0));
  EXPECT_FALSE(guard.insert(Kind::auth_id, as_bytes("a"), 20, 9));
  EXPECT_TRUE(guard.insert(Kind::taint, as_bytes("a"), 10, 0));
  EXPECT_TRUE(guard.contains(Kind::taint, as_bytes("a"), 9));
  EXPECT_FALSE(guard.contains(Kind::taint, as_bytes("a"), 10));
  EXPECT_FALSE(guard.contains(Kind::session, as_bytes("a"), 0));
  EXPECT_TRUE(guard.insert(Kind::session, as_bytes("b"), 30, 5));
  EXPECT_FALSE(guard.insert(Kind::session, as_bytes("c"), 30, 5)) << "full";
  EXPECT_TRUE(guard.insert(Kind::session, as_bytes("c"), 30, 10));
  EXPECT_TRUE(guard.insert(Kind::auth_id, as_bytes("a"), 30, 10));
  EXPECT_EQ(guard.size(), 3u);
}

}  // namespace
}  // namespace ebb::vmess
