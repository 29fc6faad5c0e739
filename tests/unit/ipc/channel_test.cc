#include "ipc/channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <functional>
#include <string>

#include "tests/unit/ipc/fake_link.h"

namespace ebb::ipc {
namespace {

using test::open_null;

struct Ends {
  Channel worker, broker;
};
Ends handoff(Channel::Options worker = {}, Channel::Options broker = {}) {
  auto both = pair();
  EXPECT_TRUE(both);
  return {Channel(std::move(both->first), Link::handoff, Role::worker, Role::broker, std::move(worker)),
          Channel(std::move(both->second), Link::handoff, Role::broker, Role::worker, std::move(broker))};
}
OfferRecord record(std::uint32_t n) {
  OfferRecord r;
  r.hid = make_hid(1, 2, n);
  return r;
}
Sent offer(Channel& channel, std::uint32_t n, int fd) {
  const int fds[] = {fd};
  return channel.send(Type::offer, bytes_of(record(n)), fds, 1);
}
int count(Channel& channel, ReadEnd expected) {
  int n = 0;
  EXPECT_EQ(channel.on_readable([&](Message&) { ++n; }), expected);
  return n;
}
/// Runs `body` in a child process, which may ruin its limits. It returns 0 for success.
int in_child(const std::function<int()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body());
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
bool same_file(int a, int b) {
  struct stat x{}, y{};
  return ::fstat(a, &x) == 0 && ::fstat(b, &y) == 0 && x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

TEST(Channel, CarriesTypedBodiesAndText) {
  auto both = pair();
  ASSERT_TRUE(both);
  Channel parent(std::move(both->first), Link::ctl, Role::supervisor, Role::broker);
  Channel child(std::move(both->second), Link::ctl, Role::broker, Role::supervisor);
  Hello hello;
  hello.role = Role::supervisor;
  hello.gen = 7;
  EXPECT_EQ(parent.send_body(Type::hello, hello), Sent::sent);
  const Fd snapshot = open_null();
  const int fds[] = {snapshot.get()};
  EXPECT_EQ(parent.send_body(Type::config_update, ConfigUpdate{9, UpdatePhase::prepare, 0}, fds, "why"), Sent::sent);
  int seen = 0;
  EXPECT_EQ(child.on_readable([&](Message& m) {
    if (++seen == 1) {
      EXPECT_EQ(m.type(), Type::hello);
      EXPECT_EQ(m.as<Hello>().gen, 7u);
    } else {
      EXPECT_EQ(m.as<ConfigUpdate>().gen, 9u);
      EXPECT_EQ(m.text(sizeof(ConfigUpdate)), "why");
      ASSERT_EQ(m.fds.size(), 1u);
      EXPECT_TRUE(same_file(m.fds[0].get(), snapshot.get()));
      EXPECT_TRUE(::fcntl(m.fds[0].get(), F_GETFD) & FD_CLOEXEC);
    }
  }),
            ReadEnd::drained);
  EXPECT_EQ(seen, 2);
}

TEST(Channel, CarriesThirtyTwoOffersInOneMessage) {
  auto [worker, broker] = handoff();
  std::vector<OfferRecord> records;
  std::vector<Fd> kept;
  std::vector<int> fds;
  for (std::uint32_t i = 0; i < kMaxOffers; ++i) {
    records.push_back(record(i + 1));
    kept.push_back(open_null());
    fds.push_back(kept.back().get());
  }
  EXPECT_EQ(worker.send_records(Type::offer, std::span<const OfferRecord>(records), fds), Sent::sent);
  EXPECT_EQ(broker.on_readable([&](Message& m) {
    EXPECT_EQ(m.fds.size(), kMaxOffers);
    const auto got = m.records<OfferRecord>();
    EXPECT_EQ(got[31].hid, records[31].hid);
  }),
            ReadEnd::drained);
}

TEST(Channel, SendsNothingTheTableForbids) {
  auto [worker, broker] = handoff();
  const Hid hid = 1;
  EXPECT_EQ(worker.send(Type::take, bytes_of(hid), {}, 1), Sent::illegal);
  EXPECT_EQ(worker.try_send(Type::offer, bytes_of(record(1)), {}, 1), Sent::illegal);  // no fd
  EXPECT_EQ(broker.send(Type::take, bytes_of(hid), {}, 0), Sent::illegal);
  EXPECT_EQ(count(broker, ReadEnd::drained), 0);
  EXPECT_EQ(broker.send(Type::take, bytes_of(hid), {}, 1), Sent::sent);
  EXPECT_EQ(count(worker, ReadEnd::drained), 1);
}

TEST(Channel, ReadsWhatADeadPeerLeftBehindDespiteConnectionReset) {
  auto [worker, broker] = handoff();
  const Fd fd = open_null();
  ASSERT_EQ(offer(worker, 1, fd.get()), Sent::sent);  // the broker never reads this: that is what causes ECONNRESET
  const std::array<Hid, 2> taken{1, 2};
  ASSERT_EQ(broker.send_records(Type::take, std::span<const Hid>(taken)), Sent::sent);
  ASSERT_EQ(broker.send_body(Type::credit, Credit{5, 0}), Sent::sent);
  broker.close();

  char byte;
  const int copy = ::dup(worker.fd());  // prove that the kernel behaves as section 5 says, on a peek of the same socket
  EXPECT_EQ(::recv(copy, &byte, 1, MSG_PEEK), -1);
  EXPECT_EQ(errno, ECONNRESET);
  ::close(copy);

  std::vector<Type> seen;
  EXPECT_EQ(worker.on_readable([&](Message& m) { seen.push_back(m.type()); }), ReadEnd::eof);
  EXPECT_EQ(seen, (std::vector{Type::take, Type::credit}));
}

TEST(Channel, DoesNotTakeConnectionResetForTheEnd) {
  auto [worker, broker] = handoff();
  const Fd fd = open_null();
  ASSERT_EQ(offer(worker, 1, fd.get()), Sent::sent);
  const Hid hid = 1;
  ASSERT_EQ(broker.send(Type::take, bytes_of(hid), {}, 1), Sent::sent);
  broker.close();
  int takes = 0;  // the error is pending here: recvmsg says ECONNRESET, then the TAKE, then 0
  EXPECT_EQ(worker.on_readable([&](Message& m) { takes += m.type() == Type::take; }), ReadEnd::eof);
  EXPECT_EQ(takes, 1);
  EXPECT_TRUE(worker.peer_dead());
  EXPECT_EQ(offer(worker, 2, fd.get()), Sent::dead);
}

TEST(Channel, SaysDeadWhenSendingToAClosedPeer) {
  auto [worker, broker] = handoff();
  broker.close();
  const Fd fd = open_null();
  EXPECT_EQ(offer(worker, 1, fd.get()), Sent::dead);
  EXPECT_EQ(count(worker, ReadEnd::eof), 0);
}

TEST(Channel, QueuesWhenTheReaderSleepsAndKeepsOrderAndFds) {
  auto [worker, broker] = handoff();
  const Fd fd = open_null();
  std::uint32_t sent = 0;
  while (offer(worker, sent + 1, fd.get()) == Sent::sent) ++sent;  // the failing one was queued
  EXPECT_GT(sent, 100u);
  EXPECT_TRUE(worker.wants_write());
  EXPECT_EQ(worker.queued(), 1u);
  EXPECT_EQ(worker.try_send(Type::goaway, bytes_of(Gen{1})), Sent::full);  // never overtakes
  EXPECT_EQ(offer(worker, sent + 2, fd.get()), Sent::queued);
  std::uint32_t got = 0;
  const auto reader = [&](Message& m) {
    EXPECT_EQ(m.as<OfferRecord>().hid, make_hid(1, 2, ++got));
    EXPECT_TRUE(same_file(m.fds[0].get(), fd.get()));
  };
  while (broker.on_readable(reader) == ReadEnd::busy) {
  }
  EXPECT_EQ(got, sent);
  worker.on_writable();
  EXPECT_FALSE(worker.wants_write());
  EXPECT_EQ(broker.on_readable(reader), ReadEnd::drained);
  EXPECT_EQ(got, sent + 2);
}

TEST(Channel, BoundsItsQueue) {
  auto [worker, broker] = handoff({.max_queued_messages = 3, .max_queued_fds = 2});
  const Fd fd = open_null();
  std::uint32_t n = 0;
  while (offer(worker, ++n, fd.get()) == Sent::sent) {
  }
  EXPECT_EQ(offer(worker, ++n, fd.get()), Sent::queued);
  EXPECT_EQ(offer(worker, n + 1, fd.get()), Sent::full);  // a third fd
  EXPECT_EQ(worker.send_body(Type::goaway, Gen{1}), Sent::queued);
  EXPECT_EQ(worker.send_body(Type::goaway, Gen{1}), Sent::full);  // a fourth message
  int got = 0;
  for (int round = 0; round < 2; ++round) {
    while (broker.on_readable([&](Message&) { ++got; }) == ReadEnd::busy) {
    }
    worker.on_writable();
  }
  EXPECT_EQ(broker.fault(), FaultCode::none);  // what was refused left no gap
  EXPECT_EQ(static_cast<std::uint32_t>(got), n + 1);
}

TEST(Channel, TellsOfATryThatFoundNoRoom) {
  auto [worker, broker] = handoff();
  const Fd fd = open_null();
  const int fds[] = {fd.get()};
  std::uint32_t n = 1;
  while (worker.try_send(Type::offer, bytes_of(record(n)), fds, 1) == Sent::sent) ++n;
  EXPECT_TRUE(worker.wants_write());
  EXPECT_EQ(worker.queued(), 0u);
  while (broker.on_readable([](Message&) {}) == ReadEnd::busy) {
  }
  worker.on_writable();
  EXPECT_FALSE(worker.wants_write());
  EXPECT_EQ(worker.try_send(Type::offer, bytes_of(record(n)), fds, 1), Sent::sent);
  EXPECT_EQ(count(broker, ReadEnd::drained), 1);
}

TEST(Channel, ReportsOffersWhoseFdsTheKernelDropped) {
  EXPECT_EQ(in_child([] {
              auto [worker, broker] = handoff();
              std::array<OfferRecord, 5> records;
              std::vector<int> fds;
              for (std::uint32_t i = 0; i < 5; ++i) {
                records[i] = record(i + 1);
                fds.push_back(worker.fd());
              }
              if (worker.send_records(Type::offer, std::span<const OfferRecord>(records), fds) != Sent::sent) return 1;
              const int last = ::dup(0);
              const rlimit tight{static_cast<rlim_t>(last) + 3, static_cast<rlim_t>(last) + 3};
              if (::setrlimit(RLIMIT_NOFILE, &tight) != 0) return 2;
              bool lost = false;
              if (broker.on_readable([&](Message& m) { lost = m.fds_lost && m.fds.empty() && m.header.nrec == 5; }) !=
                  ReadEnd::drained) {
                return 3;
              }
              if (!lost) return 4;
              const int again = ::dup(0);  // what did come was closed: the same number is free
              return again == last + 1 ? 0 : 5;
            }),
            0);
}

TEST(Channel, TreatsTooManyRefsAsNoRoom) {
  EXPECT_EQ(
      in_child([] {
        auto [worker, broker] = handoff();
        const Fd fd = open_null();
        const rlimit tight{64, 64};
        if (::setrlimit(RLIMIT_NOFILE, &tight) != 0) return 1;
        // Capabilities are exempt from the limit; a uid of our own keeps others' fds in flight out of the count.
        if (::geteuid() == 0 && (::setresgid(61234, 61234, 61234) != 0 || ::setresuid(61234, 61234, 61234) != 0)) {
          return 2;
        }
        std::uint32_t n = 1;
        Sent sent = Sent::sent;
        while (n < 500 && (sent = offer(worker, n, fd.get())) == Sent::sent) ++n;
        if (sent != Sent::queued || n < 32 || n > 70) return 3;
        if (worker.wants_write() || !worker.wants_retry()) return 4;
        worker.on_writable();
        if (!worker.wants_retry()) return 5;
        std::uint32_t got = 0;
        while (broker.on_readable([&](Message&) { ++got; }) == ReadEnd::busy) {
        }
        worker.on_writable();
        if (worker.wants_retry() || worker.queued() != 0) return 6;
        broker.on_readable([&](Message&) { ++got; });
        return got == n ? 0 : 7;
      }),
      0);
}

TEST(Channel, ReadsOnlyWithFdsToSpare) {
  bool spare = false;
  auto [worker, broker] = handoff({}, {.fds_to_spare = [&] { return spare; }});
  const Fd fd = open_null();
  ASSERT_EQ(offer(worker, 1, fd.get()), Sent::sent);
  EXPECT_EQ(count(broker, ReadEnd::starved), 0);
  spare = true;
  EXPECT_EQ(count(broker, ReadEnd::drained), 1);
}

TEST(Channel, LeavesTheRestForTheNextWakeUp) {
  auto [worker, broker] = handoff({}, {.messages_per_read = 4});
  for (int i = 0; i < 6; ++i) ASSERT_EQ(worker.send_body(Type::goaway, Gen{1}), Sent::sent);
  EXPECT_EQ(count(broker, ReadEnd::busy), 4);
  EXPECT_EQ(count(broker, ReadEnd::drained), 2);
}

TEST(Channel, CutsLongTextAndPutsItTogether) {
  auto both = pair();
  ASSERT_TRUE(both);
  Channel parent(std::move(both->first), Link::ctl, Role::supervisor, Role::worker);
  Channel child(std::move(both->second), Link::ctl, Role::worker, Role::supervisor);
  Hello hello;
  hello.role = Role::supervisor;
  parent.send_body(Type::hello, hello);
  std::string text(300'000, 'x');
  text[150'000] = 'y';
  ASSERT_NE(parent.send_long_text(Type::query, text), Sent::illegal);
  ASSERT_NE(parent.send_long_text(Type::query, ""), Sent::illegal);
  EXPECT_EQ(parent.send_long_text(Type::query, std::string(kMaxBody * kMaxParts + 1, 'x')), Sent::illegal);
  std::vector<std::string> queries(1);
  for (int round = 0; round < 20; ++round) {
    child.on_readable([&](Message& m) {
      if (m.type() != Type::query) return;
      queries.back() += m.text(0);
      if (!m.more()) queries.emplace_back();
    });
    parent.on_writable();
  }
  ASSERT_EQ(queries.size(), 3u);
  EXPECT_EQ(queries[0], text);
  EXPECT_EQ(queries[1], "");
}

/// Everything a hostile peer may put on the wire ends in a fault and a FAULT message to the peer, never in a crash.
TEST(Channel, HangsUpOnGarbage) {
  const auto fault_of = [](ConstSpan bytes, int extra_fds = 0) {
    auto both = pair();
    Channel broker(std::move(both->second), Link::handoff, Role::broker, Role::worker);
    const Fd null = open_null();
    iovec part{const_cast<std::uint8_t*>(bytes.data()), bytes.size()};
    msghdr raw{};
    raw.msg_iov = &part;
    raw.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    if (extra_fds != 0) {
      raw.msg_control = control;
      raw.msg_controllen = sizeof control;
      cmsghdr* c = CMSG_FIRSTHDR(&raw);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(sizeof(int));
      const int fd = null.get();
      std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    EXPECT_GE(::sendmsg(both->first.get(), &raw, 0), 0);
    EXPECT_EQ(count(broker, ReadEnd::fault), 0);
    EXPECT_FALSE(broker.open());
    EXPECT_EQ(broker.send_body(Type::credit, Credit{}), Sent::dead);
    Channel worker(std::move(both->first), Link::handoff, Role::worker, Role::broker);
    FaultCode told = FaultCode::none;
    EXPECT_EQ(worker.on_readable([&](Message& m) {
      if (m.type() == Type::fault) told = m.as<Fault>().code;
    }),
              ReadEnd::eof);
    EXPECT_EQ(told, broker.fault());
    return broker.fault();
  };
  Header header;
  header.type = static_cast<std::uint16_t>(Type::goaway);
  header.seq = 1;
  header.body_len = 8;
  Bytes message(24);
  const auto with = [&](auto change) {
    Header h = header;
    change(h);
    std::memcpy(message.data(), &h, sizeof h);
    return message;
  };
  EXPECT_EQ(fault_of(Bytes(5)), FaultCode::bad_length);
  EXPECT_EQ(fault_of(Bytes(16)), FaultCode::bad_magic);
  EXPECT_EQ(fault_of(Bytes(kMaxBody + 17)), FaultCode::bad_length);
  EXPECT_EQ(fault_of(with([](Header& h) { h.seq = 2; })), FaultCode::bad_seq);
  EXPECT_EQ(fault_of(with([](Header& h) { h.nfds = 1; })), FaultCode::bad_fds);
  EXPECT_EQ(fault_of(with([](Header&) {}), 1), FaultCode::bad_fds);  // an fd nobody announced
  EXPECT_EQ(fault_of(with([](Header& h) { h.body_len = 9; })), FaultCode::bad_length);
}

TEST(Channel, AHandlerMayClose) {
  auto [worker, broker] = handoff();
  worker.send_body(Type::goaway, Gen{1});
  worker.send_body(Type::goaway, Gen{1});
  int n = 0;
  EXPECT_EQ(broker.on_readable([&, b = &broker](Message&) {
    ++n;
    b->send_fault(FaultCode::unexpected, "no such thing");
  }),
            ReadEnd::fault);
  EXPECT_EQ(n, 1);
}

TEST(Channel, KnowsThePeersUid) {
  auto both = pair();
  ASSERT_TRUE(both);
  EXPECT_EQ(peer_uid(both->first.get()), ::geteuid());
  EXPECT_EQ(peer_uid(open_null().get()), std::nullopt);
}

TEST(Channel, AFaultEndsTheLinkForEveryCopyAndLeavesTheDescriptorToItsWatcher) {
  auto both = pair();
  const Fd copy(::fcntl(both->second.get(), F_DUPFD_CLOEXEC, 0));  // still on its way to us, or in another process
  Channel broker(std::move(both->second), Link::handoff, Role::broker, Role::worker);
  const int watched = broker.fd();
  ASSERT_EQ(::send(both->first.get(), "no message", 10, MSG_NOSIGNAL), 10);
  EXPECT_EQ(broker.on_readable([](Message&) {}), ReadEnd::fault);
  EXPECT_FALSE(broker.open());
  EXPECT_EQ(broker.fd(), watched);
  EXPECT_GE(::fcntl(watched, F_GETFD), 0);
  EXPECT_EQ(broker.on_readable([](Message&) {}), ReadEnd::fault);
  EXPECT_FALSE(broker.wants_write());
  Channel worker(std::move(both->first), Link::handoff, Role::worker, Role::broker);
  EXPECT_EQ(worker.on_readable([](Message& m) { EXPECT_EQ(m.type(), Type::fault); }), ReadEnd::eof);
  EXPECT_EQ(worker.send_body(Type::goaway, Gen{1}), Sent::dead);
}

}  // namespace
}  // namespace ebb::ipc
