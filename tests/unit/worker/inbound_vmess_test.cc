#include <gtest/gtest.h>

#include "common/crypto/random.h"
#include "common/protocol/vmess/client.h"
#include "common/protocol/vmess/memory_replay.h"
#include "ipc/replay_table.h"
#include "tests/support/manual_loop.h"
#include "tests/support/memory_stream.h"
#include "worker/inbound/replay_guard.h"
#include "worker/inbound/vmess.h"

namespace ebb::inbound {
namespace {

using namespace std::chrono_literals;
using test::ManualLoop;
using test::MemoryFaults;
using test::MemoryStream;

constexpr UnixSeconds kNow = 1'700'000'000;
UnixSeconds now_in_tests() { return kNow; }

vmess::User user(std::uint8_t number, std::uint16_t alter_id = 0) {
  vmess::User out;
  out.id.value.fill(number);
  out.alter_id = alter_id;
  return out;
}

class AcceptVmess : public testing::Test {
 protected:
  AcceptVmess() : users(vmess::UserTable::make({user(1), user(2, 1)}).value()) {
    users.advance(kNow);
    gate.unix_now = now_in_tests;
    gate.limit = 4s;
  }
  Bytes request_of(const vmess::User& who, bool legacy = false) {
    vmess::ClientOptions options;
    options.user = who;
    options.legacy = legacy;
    const auto made =
        vmess::ClientHandshake::make(options, Target{Network::tcp, std::string("x.test"), 80}, kNow, random);
    const ConstSpan bytes = made->request();
    return {bytes.begin(), bytes.end()};
  }
  void accept(MemoryFaults faults = {}) {
    auto [near, other] = MemoryStream::pair(loop, faults);
    far = std::move(other);
    task.reset();
    client = std::make_unique<net::Conversation>(std::move(near), kMaxHandshakeBytes);
    task.emplace(accept_vmess(*client, gate));
    task->start();
  }
  void send(ConstSpan bytes) {
    far->put(bytes);
    loop.settle();
  }

  ManualLoop loop;
  crypto::SeededRandom random{1};
  vmess::MemoryReplayGuard guard;
  vmess::UserTable users;
  Gate gate{users, guard, random, {}, 60s, nullptr};
  std::unique_ptr<MemoryStream> far;
  std::unique_ptr<net::Conversation> client;
  std::optional<net::Task<Result<VmessRequest>>> task;
};

TEST_F(AcceptVmess, AcceptsARequestInOneByteReadsAndKeepsTheBody) {
  for (const bool legacy : {false, true}) {
    MemoryFaults faults;
    faults.max_read = 1;
    accept(faults);
    Bytes bytes = request_of(user(2, 1), legacy);
    bytes.insert(bytes.end(), {'b', 'o', 'd', 'y'});
    send(bytes);
    ASSERT_TRUE(task->done());
    const auto request = task->take();
    ASSERT_TRUE(request) << request.error().what;
    EXPECT_EQ(request->user, 1u);
    EXPECT_EQ(request->target.text(), "tcp:x.test:80");
    EXPECT_EQ(request->keys.legacy, legacy);
    EXPECT_TRUE(client->input().empty()) << "the last read brought the last byte of the header";
    EXPECT_EQ(far->waiting(), 0u) << "nothing is written by a handshake";
  }
}

TEST_F(AcceptVmess, HandsOnWhatWasReadBehindTheHeader) {
  accept();
  Bytes bytes = request_of(user(1));
  bytes.insert(bytes.end(), {'b', 'o', 'd', 'y'});
  send(bytes);
  ASSERT_TRUE(task->done());
  ASSERT_TRUE(task->take());
  EXPECT_EQ(as_text(client->release().unread), "body");
}

TEST_F(AcceptVmess, DrainsAStrangerUpToTheLimitCountedByByte) {
  const std::size_t least = 54u + users.drain().base;
  const std::size_t most = least + users.drain().spread - 1;
  accept();
  std::size_t sent = 0;
  const std::uint8_t byte = 0x55;
  while (!task->done() && sent <= most) {
    send({&byte, 1});
    ++sent;
  }
  ASSERT_TRUE(task->done());
  EXPECT_GE(sent, least);
  EXPECT_LE(sent, most);
  const auto refused = task->take();
  EXPECT_EQ(refused.error().code, Errc::auth);
  EXPECT_EQ(far->waiting(), 0u) << "silence";
}

TEST_F(AcceptVmess, WithTheDrainLimitAlreadyReceivedItEndsAtOnce) {
  accept();
  send(Bytes(5000, 0x55));
  EXPECT_TRUE(task->done());
}

TEST_F(AcceptVmess, ADrainEndsWithTheHandshakesTime) {
  accept();
  loop.advance(3s);
  send(Bytes(20, 0x55));
  EXPECT_FALSE(task->done());
  loop.advance(900ms);
  EXPECT_FALSE(task->done());
  loop.advance(200ms);
  ASSERT_TRUE(task->done());
  EXPECT_EQ(task->take().error().code, Errc::auth);
}

TEST_F(AcceptVmess, SilenceAndHalfAHeaderTimeOut) {
  for (const std::size_t bytes : {0u, 8u, 30u}) {
    accept();
    const Bytes request = request_of(user(1));
    send(std::span(request).first(bytes));
    loop.advance(3990ms);
    EXPECT_FALSE(task->done());
    loop.advance(20ms);
    ASSERT_TRUE(task->done());
    EXPECT_EQ(task->take().error().code, Errc::timeout);
  }
}

TEST_F(AcceptVmess, AReplayIsDrainedLikeAStranger) {
  const Bytes bytes = request_of(user(1));
  accept();
  send(bytes);
  ASSERT_TRUE(task->done());
  ASSERT_TRUE(task->take());
  accept();
  send(bytes);
  EXPECT_FALSE(task->done()) << "it is being drained";
  far->shutdown_write();
  loop.settle();
  ASSERT_TRUE(task->done());
  EXPECT_EQ(task->take().error().what, "replayed header");
}

TEST_F(AcceptVmess, ALegacyHeaderCutShortIsTainted) {
  Bytes bytes = request_of(user(2, 1), true);
  const Bytes whole = bytes;
  bytes.pop_back();
  accept();
  send(bytes);
  far->shutdown_write();
  loop.settle();
  ASSERT_TRUE(task->done());
  Bytes auth(whole.begin(), whole.begin() + 16);
  EXPECT_TRUE(guard.contains(vmess::ReplayGuard::Kind::taint, auth, kNow));
}

TEST(SharedReplayGuard, RemembersInTheTableOfAllWorkers) {
  auto table = ipc::ReplayTable::create(1024);
  ASSERT_TRUE(table);
  SharedReplayGuard one(*table);
  SharedReplayGuard other(*table);
  const Bytes auth(16, 7);
  using Kind = vmess::ReplayGuard::Kind;
  EXPECT_TRUE(one.insert(Kind::auth_id, auth, kNow + 240, kNow));
  EXPECT_FALSE(other.insert(Kind::auth_id, auth, kNow + 240, kNow));
  EXPECT_TRUE(other.contains(Kind::auth_id, auth, kNow));
  EXPECT_FALSE(other.contains(Kind::taint, auth, kNow));
}

}  // namespace
}  // namespace ebb::inbound
