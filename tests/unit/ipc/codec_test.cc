#include "ipc/codec.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace ebb::ipc {
namespace {

struct Raw {
  Header header;
  Bytes body;
};

/// A legal message for a rule: zero values except where zero is illegal.
Raw sample(const Rule& rule, Role sender) {
  Raw raw;
  const std::uint8_t nrec = rule.min_records;
  raw.body.resize(rule.fixed + std::size_t{rule.record} * nrec);
  const auto put = [&](auto value, std::size_t at = 0) { std::memcpy(raw.body.data() + at, &value, sizeof value); };
  std::uint8_t nfds = rule.fds == FdRule::one ? 1 : rule.fds == FdRule::per_record ? nrec : 0;
  switch (rule.type) {
    case Type::hello: {
      Hello hello;
      hello.role = sender;
      put(hello);
      break;
    }
    case Type::config: put(Config{}); break;
    case Type::shm: put(Shm{4096, ShmKind::replay, 0}); break;
    case Type::broker_state: put(BrokerState{}); break;
    case Type::logfd: put(LogFd{}); break;
    case Type::config_update:
      put(ConfigUpdate{});
      if (rule.fds == FdRule::with_prepare) nfds = 1;
      break;
    case Type::adopt_state: {
      AdoptState state;
      state.role = 2;
      state.shm_kinds = 6;
      put(state);
      nfds = 2;
      break;
    }
    case Type::offer: {
      OfferRecord record;
      record.hid = make_hid(1, 2, 3);
      put(record);
      break;
    }
    case Type::take:
    case Type::recall:
    case Type::recalled: put(Hid{1}); break;
    case Type::refuse: put(Refusal{1, RefuseReason::overload, 0}); break;
    default: break;
  }
  raw.header.type = static_cast<std::uint16_t>(rule.type);
  raw.header.nfds = nfds;
  raw.header.nrec = nrec;
  raw.header.seq = 1;
  raw.header.body_len = static_cast<std::uint32_t>(raw.body.size());
  return raw;
}

/// A Direction brought into a phase in which `rule` is legal.
Direction ready_for(const Rule& rule, Link link, Role sender) {
  Direction d(link, sender);
  const auto go = [&](Type type) {
    const Rule* step = find_rule(type, link, sender);
    if (step == nullptr || (step->phases & static_cast<unsigned>(d.phase())) == 0) return;
    Raw raw = sample(*step, sender);
    raw.header.seq = d.next_seq();
    EXPECT_EQ(d.accept(raw.header, raw.body), FaultCode::none);
  };
  for (Type step : {Type::hello, Type::adopt, Type::adopt_state, Type::ready, Type::start}) {
    if (rule.phases & static_cast<unsigned>(d.phase())) break;
    go(step);
  }
  EXPECT_NE(rule.phases & static_cast<unsigned>(d.phase()), 0u) << rule.name;
  return d;
}

template <class Visit>
void for_each_use(Visit visit) {
  for (const Rule& rule : rules()) {
    for (unsigned l = 0; l < 4; ++l) {
      for (unsigned r = 1; r <= 5; ++r) {
        if (rule.links & (1u << l) && rule.senders & (1u << r)) visit(rule, Link(l), Role(r));
      }
    }
  }
}

TEST(Codec, AcceptsEveryRowOfTheTable) {
  int uses = 0;
  for_each_use([&](const Rule& rule, Link link, Role sender) {
    Direction d = ready_for(rule, link, sender);
    Raw raw = sample(rule, sender);
    raw.header.seq = d.next_seq();
    EXPECT_EQ(d.check(raw.header, raw.body), FaultCode::none) << rule.name;
    EXPECT_EQ(d.accept(raw.header, raw.body), FaultCode::none) << rule.name;
    ++uses;
  });
  EXPECT_GT(uses, 70);
}

TEST(Codec, RulesOfOneTypeNeverOverlap) {
  for (unsigned l = 0; l < 4; ++l) {
    for (unsigned r = 1; r <= 5; ++r) {
      for (unsigned type = 0; type < 64; ++type) {
        int hits = 0;
        for (const Rule& rule : rules()) {
          hits += static_cast<unsigned>(rule.type) == type && rule.links & (1u << l) && rule.senders & (1u << r);
        }
        EXPECT_LE(hits, 1) << type;
      }
    }
  }
}

TEST(Codec, RefusesEveryOtherLengthCountAndFdNumber) {
  for_each_use([&](const Rule& rule, Link link, Role sender) {
    const Direction d = ready_for(rule, link, sender);
    Raw good = sample(rule, sender);
    good.header.seq = d.next_seq();
    const std::size_t head = good.body.size();
    for (std::size_t size = 0; size <= head + rule.max_tail + 1 && size < head + 400; ++size) {
      Raw raw = good;
      raw.body.resize(size);
      raw.header.body_len = static_cast<std::uint32_t>(size);
      const FaultCode code = d.check(raw.header, raw.body);
      if (size < head || size > head + rule.max_tail) {
        EXPECT_EQ(code, FaultCode::bad_length) << rule.name << ' ' << size;
      } else if (rule.type != Type::offer) {  // an offer's tail must match its record
        EXPECT_EQ(code, FaultCode::none) << rule.name << ' ' << size;
      }
      if (size > 0) {
        raw.header.body_len = static_cast<std::uint32_t>(size - 1);
        EXPECT_EQ(d.check(raw.header, raw.body), FaultCode::bad_length);
      }
    }
    for (unsigned n = 0; n < 256; ++n) {
      Raw raw = good;
      raw.header.nfds = static_cast<std::uint8_t>(n);
      EXPECT_EQ(d.check(raw.header, raw.body), n == good.header.nfds ? FaultCode::none : FaultCode::bad_fds)
          << rule.name;
      raw = good;
      raw.header.nrec = static_cast<std::uint8_t>(n);
      if (n < rule.min_records || n > rule.max_records) {
        EXPECT_EQ(d.check(raw.header, raw.body), FaultCode::bad_count) << rule.name << ' ' << n;
      } else if (n != good.header.nrec) {
        EXPECT_NE(d.check(raw.header, raw.body), FaultCode::none) << rule.name << ' ' << n;
      }
    }
  });
}

TEST(Codec, RefusesForeignHeaders) {
  const Rule& rule = *find_rule(Type::goaway, Link::handoff, Role::worker);
  const Raw good = sample(rule, Role::worker);
  const auto verdict = [&](auto change) {
    Raw raw = good;
    change(raw.header);
    return Direction(Link::handoff, Role::worker).accept(raw.header, raw.body);
  };
  EXPECT_EQ(verdict([](Header&) {}), FaultCode::none);
  EXPECT_EQ(verdict([](Header& h) { h.magic ^= 1; }), FaultCode::bad_magic);
  EXPECT_EQ(verdict([](Header& h) { h.protocol++; }), FaultCode::bad_protocol);
  EXPECT_EQ(verdict([](Header& h) { h.seq = 2; }), FaultCode::bad_seq);
  EXPECT_EQ(verdict([](Header& h) { h.seq = 0; }), FaultCode::bad_seq);
  EXPECT_EQ(verdict([](Header& h) { h.flags |= 4; }), FaultCode::bad_value);
  EXPECT_EQ(verdict([](Header& h) { h.flags |= flags::more; }), FaultCode::bad_more);
  EXPECT_EQ(verdict([](Header& h) { h.type = 999; }), FaultCode::unknown_type);
  EXPECT_EQ(verdict([](Header& h) { h.type = static_cast<std::uint16_t>(Type::take); }), FaultCode::not_allowed);
  EXPECT_EQ(verdict([](Header& h) { h.type = static_cast<std::uint16_t>(Type::ping); }), FaultCode::not_allowed);
}

TEST(Codec, SkipsUnknownTypesThatAreNotCritical) {
  Direction d(Link::handoff, Role::broker);
  Raw raw = sample(*find_rule(Type::goaway, Link::handoff, Role::broker), Role::broker);
  raw.header.type = 999;
  raw.header.flags = 0;
  bool known = true;
  EXPECT_EQ(d.accept(raw.header, raw.body, &known), FaultCode::none);
  EXPECT_FALSE(known);
  EXPECT_EQ(d.next_seq(), 2u);
}

TEST(Codec, NobodySpeaksBeforeHelloOrAfterFault) {
  for (const Rule& rule : rules()) {
    if (!(rule.links & 1) || rule.type == Type::hello || rule.type == Type::fault) continue;
    for (unsigned r = 1; r <= 4; ++r) {
      if (!(rule.senders & (1u << r))) continue;
      const Raw raw = sample(rule, Role(r));
      EXPECT_EQ(Direction(Link::ctl, Role(r)).check(raw.header, raw.body), FaultCode::not_allowed) << rule.name;
    }
  }
  Direction d(Link::handoff, Role::worker);
  Raw fault = sample(*find_rule(Type::fault, Link::handoff, Role::worker), Role::worker);
  EXPECT_EQ(d.accept(fault.header, fault.body), FaultCode::none);
  fault.header.seq = 2;
  EXPECT_EQ(d.accept(fault.header, fault.body), FaultCode::not_allowed);
}

TEST(Codec, ADrainIsNeverTakenBack) {
  const Rule& drain = *find_rule(Type::drain, Link::ctl, Role::supervisor);
  Direction d = ready_for(drain, Link::ctl, Role::supervisor);
  Raw raw = sample(drain, Role::supervisor);
  raw.header.seq = d.next_seq();
  ASSERT_EQ(d.accept(raw.header, raw.body), FaultCode::none);
  for (Type later : {Type::start, Type::pause, Type::slot_grant, Type::config}) {
    raw = sample(*find_rule(later, Link::ctl, Role::supervisor), Role::supervisor);
    raw.header.seq = d.next_seq();
    EXPECT_EQ(d.check(raw.header, raw.body), FaultCode::not_allowed);
  }
  for (Type later : {Type::drain, Type::ping, Type::link_add, Type::logfd}) {
    raw = sample(*find_rule(later, Link::ctl, Role::supervisor), Role::supervisor);
    raw.header.seq = d.next_seq();
    EXPECT_EQ(d.check(raw.header, raw.body), FaultCode::none);
  }
}

TEST(Codec, AnUpgradeToAnotherProtocolKeepsTheFrozenMessages) {
  constexpr Role N = Role::successor, S = Role::supervisor;
  const auto verdict = [](Type type, Role sender) {
    const Rule& rule = *find_rule(type, Link::upgrade, sender);
    Direction d = ready_for(rule, Link::upgrade, sender);
    Raw raw = sample(rule, sender);
    raw.header.seq = d.next_seq();
    raw.header.protocol = kProtocol + 1;
    return d.check(raw.header, raw.body);
  };
  for (Type type : {Type::hello, Type::ready, Type::commit}) EXPECT_EQ(verdict(type, N), FaultCode::none);
  for (Type type : {Type::hello, Type::shm, Type::slot_grant, Type::start, Type::commit}) {
    EXPECT_EQ(verdict(type, S), FaultCode::none);
  }
  for (Type type : {Type::link_add, Type::config_update, Type::query}) {
    EXPECT_EQ(verdict(type, N), FaultCode::bad_protocol);
  }
  for (Type type : {Type::broker_state, Type::config_update_result}) {
    EXPECT_EQ(verdict(type, S), FaultCode::bad_protocol);
  }
}

TEST(Codec, TheSnapshotIsAdoptedButNeverSharedMemory) {
  const auto adopted = [](std::uint32_t kinds, std::uint8_t fds) {
    Raw raw = sample(*find_rule(Type::adopt_state, Link::adoption, Role::worker), Role::worker);
    const std::size_t at = offsetof(AdoptState, shm_kinds);
    std::memcpy(raw.body.data() + at, &kinds, sizeof kinds);
    raw.header.nfds = fds;
    return Direction(Link::adoption, Role::worker).check(raw.header, raw.body);
  };
  EXPECT_EQ(adopted(shm_bit(ShmKind::snapshot), 1), FaultCode::none);
  EXPECT_EQ(adopted(shm_bit(ShmKind::snapshot) | shm_bit(ShmKind::replay), 2), FaultCode::none);
  EXPECT_EQ(adopted(kShmKindsEnd - 1, 4), FaultCode::none);
  EXPECT_EQ(adopted(kShmKindsEnd, 1), FaultCode::bad_value);

  const Rule& rule = *find_rule(Type::shm, Link::ctl, Role::supervisor);
  Direction d = ready_for(rule, Link::ctl, Role::supervisor);
  const Shm snapshot{4096, ShmKind::snapshot, 0};
  Raw raw = sample(rule, Role::supervisor);
  std::memcpy(raw.body.data(), &snapshot, sizeof snapshot);
  raw.header.seq = d.next_seq();
  EXPECT_EQ(d.check(raw.header, raw.body), FaultCode::bad_value);
}

TEST(Codec, TheNewSupervisorOnlyAsksWhatTheOldOneNeverAnswers) {
  EXPECT_NE(find_rule(Type::query, Link::upgrade, Role::successor), nullptr);
  EXPECT_EQ(find_rule(Type::query, Link::upgrade, Role::supervisor), nullptr);
  EXPECT_EQ(find_rule(Type::broker_state, Link::upgrade, Role::successor), nullptr);
}

TEST(Codec, HelloMustNameItsSender) {
  const Rule& rule = *find_rule(Type::hello, Link::ctl, Role::worker);
  for (unsigned role = 0; role < 256; ++role) {
    Raw raw = sample(rule, Role(role));
    const bool good = role >= 1 && role <= 4;
    EXPECT_EQ(Direction(Link::ctl, Role::worker).check(raw.header, raw.body) == FaultCode::none, good) << role;
  }
  Raw raw = sample(rule, Role::worker);
  raw.body[0] = kProtocol + 1;
  EXPECT_EQ(Direction(Link::ctl, Role::worker).check(raw.header, raw.body), FaultCode::bad_protocol);
}

TEST(Codec, ChainsStayTogetherAndEnd) {
  const Rule& rule = *find_rule(Type::query, Link::ctl, Role::supervisor);
  Direction d = ready_for(rule, Link::ctl, Role::supervisor);
  Raw part = sample(rule, Role::supervisor);
  part.header.flags |= flags::more;
  part.header.seq = d.next_seq();
  ASSERT_EQ(d.accept(part.header, part.body), FaultCode::none);
  Raw ping = sample(*find_rule(Type::ping, Link::ctl, Role::supervisor), Role::supervisor);
  ping.header.seq = d.next_seq();
  EXPECT_EQ(d.check(ping.header, ping.body), FaultCode::bad_more);
  std::size_t parts = 1;
  FaultCode code = FaultCode::none;
  while (code == FaultCode::none && parts < 1000) {
    part.header.seq = d.next_seq();
    code = d.accept(part.header, part.body);
    ++parts;
  }
  EXPECT_EQ(code, FaultCode::bad_more);
  EXPECT_EQ(parts, kMaxParts);
  part.header.flags = flags::critical;  // the last part is still welcome
  EXPECT_EQ(d.accept(part.header, part.body), FaultCode::none);
  ping.header.seq = d.next_seq();
  EXPECT_EQ(d.accept(ping.header, ping.body), FaultCode::none);
}

TEST(Codec, JudgesEveryFieldOfAnOffer) {
  const auto verdict = [](auto change, std::size_t tail = 0) {
    OfferRecord record;
    record.hid = 1;
    change(record);
    Bytes body(sizeof record + tail);
    std::memcpy(body.data(), &record, sizeof record);
    Header header;
    header.type = static_cast<std::uint16_t>(Type::offer);
    header.nfds = header.nrec = 1;
    header.seq = 1;
    header.body_len = static_cast<std::uint32_t>(body.size());
    return Direction(Link::handoff, Role::worker).check(header, body);
  };
  EXPECT_EQ(verdict([](OfferRecord&) {}), FaultCode::none);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.blob_len = 8; }, 8), FaultCode::none);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.blob_len = kMaxBlob; }, kMaxBlob), FaultCode::none);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.blob_len = kMaxBlob + 1; }, kMaxBlob + 1), FaultCode::bad_length);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.blob_len = 8; }, 9), FaultCode::bad_value);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.blob_len = 1; }), FaultCode::bad_value);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.hid = 0; }), FaultCode::bad_value);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.klass = OfferClass(0); }), FaultCode::bad_value);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.klass = OfferClass(5); }), FaultCode::bad_value);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.role = OfferRole(3); }), FaultCode::bad_value);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.flags = 8; }), FaultCode::bad_value);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.family = 99; }), FaultCode::bad_value);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.network = 0; }), FaultCode::bad_value);
  EXPECT_EQ(verdict([](OfferRecord& r) { r.pad[5] = 1; }), FaultCode::bad_value);
}

TEST(Codec, ABlobComesAlone) {
  std::array<OfferRecord, 2> records;
  records[0].hid = 1;
  records[1].hid = 2;
  records[1].blob_len = 4;
  Bytes body(sizeof records + 4);
  std::memcpy(body.data(), records.data(), sizeof records);
  Header header;
  header.type = static_cast<std::uint16_t>(Type::offer);
  header.nfds = header.nrec = 2;
  header.seq = 1;
  header.body_len = static_cast<std::uint32_t>(body.size());
  EXPECT_EQ(Direction(Link::handoff, Role::worker).check(header, body), FaultCode::bad_value);
}

}  // namespace
}  // namespace ebb::ipc
