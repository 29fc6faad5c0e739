#include "ipc/codec.h"

#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace ebb::ipc {
namespace {

constexpr std::uint8_t on(Link link) { return static_cast<std::uint8_t>(1u << static_cast<unsigned>(link)); }
constexpr std::uint8_t by(Role role) { return static_cast<std::uint8_t>(1u << static_cast<unsigned>(role)); }
constexpr std::uint8_t bit(Phase phase) { return static_cast<std::uint8_t>(phase); }

constexpr std::uint8_t C = on(Link::ctl), U = on(Link::upgrade), A = on(Link::adoption), H = on(Link::handoff);
constexpr std::uint8_t CA = C | A;
constexpr std::uint8_t S = by(Role::supervisor), W = by(Role::worker), B = by(Role::broker), K = by(Role::checker),
                       N = by(Role::successor);
constexpr std::uint8_t greet = bit(Phase::greeting), setup = bit(Phase::setup), run = bit(Phase::running),
                       leave = bit(Phase::leaving), over = bit(Phase::over);
constexpr std::uint8_t not_yet = setup | run, later = setup | run | leave;
using enum FdRule;

// name, type, links, senders, phases, moves to, fixed, record, min, max records, tail, fds, MORE
constexpr Rule kRules[] = {
    {"HELLO", Type::hello, C, S | W | B | K, greet, setup, sizeof(Hello), 0, 0, 0, 0, none, false},
    {"HELLO", Type::hello, U, S | N, greet, setup, sizeof(Hello), 0, 0, 0, 0, none, false},
    {"CONFIG", Type::config, CA, S, not_yet, 0, sizeof(Config), 0, 0, 0, 0, one, false},
    {"CONFIG", Type::config, C, K, not_yet, 0, sizeof(Config), 0, 0, 0, 0, one, false},
    {"SECRETS", Type::secrets, CA, S, not_yet, 0, sizeof(Secrets), 0, 0, 0, 0, one, false},
    {"SHM", Type::shm, CA | U, S, not_yet, 0, sizeof(Shm), 0, 0, 0, 0, one, false},
    {"SLOT_GRANT", Type::slot_grant, CA | U, S, not_yet, 0, 0, sizeof(SlotGrant), 1, kMaxSlots, 0, per_record, false},
    {"SLOT_REVOKE", Type::slot_revoke, CA, S, later, 0, 0, sizeof(SlotId), 1, kMaxSlots, 0, none, false},
    {"SLOT_REVOKED", Type::slot_revoked, CA, W | B, later, 0, 0, sizeof(SlotId), 1, kMaxSlots, 0, none, false},
    {"LINK_ADD", Type::link_add, CA, S, later, 0, sizeof(LinkAdd), 0, 0, 0, 0, one, false},
    {"LINK_ADD", Type::link_add, U, N, not_yet, 0, sizeof(LinkAdd), 0, 0, 0, 0, one, false},
    {"BROKER_STATE", Type::broker_state, CA | U, S, later, 0, sizeof(BrokerState), 0, 0, 0, 0, none, false},
    {"READY", Type::ready, C, W | B | K, setup, run, sizeof(Ready), 0, 0, 0, 0, none, false},
    {"READY", Type::ready, U, N, setup, run, sizeof(Ready), 0, 0, 0, 0, none, false},
    {"START", Type::start, CA | U, S, not_yet, run, sizeof(Gen), 0, 0, 0, 0, none, false},
    {"STARTED", Type::started, CA, W | B, run | leave, 0, sizeof(Gen), 0, 0, 0, 0, none, false},
    {"STARTED", Type::started, U, N, run, 0, sizeof(Gen), 0, 0, 0, 0, none, false},
    {"DRAIN", Type::drain, CA, S, later, leave, sizeof(Drain), 0, 0, 0, 0, none, false},
    {"PAUSE", Type::pause, CA, S, run, 0, sizeof(Gen), 0, 0, 0, 0, none, false},
    {"PAUSED", Type::paused, CA, W | B, run | leave, 0, sizeof(Gen), 0, 0, 0, 0, none, false},
    {"DRAINED", Type::drained, CA, W | B, not_yet, leave, sizeof(Drained), 0, 0, 0, 0, none, false},
    {"LOGFD", Type::logfd, CA, S, later, 0, sizeof(LogFd), 0, 0, 0, 0, one, false},
    {"PING", Type::ping, CA, S, later, 0, sizeof(Ping), 0, 0, 0, 0, none, false},
    {"PONG", Type::pong, CA, W | B, later, 0, sizeof(Pong), 0, 0, 0, 0, none, false},
    {"PONG", Type::pong, C, K, later, 0, sizeof(Pong), 0, 0, 0, 0, none, false},
    {"STATS", Type::stats, CA, W | B, later, 0, 0, sizeof(Stat), 1, 255, 0, none, false},
    {"CONFIG_UPDATE", Type::config_update, CA, S, later, 0, sizeof(ConfigUpdate), 0, 0, 0, kMaxUpdateText, with_prepare,
     false},
    {"CONFIG_UPDATE", Type::config_update, U, N, not_yet, 0, sizeof(ConfigUpdate), 0, 0, 0, kMaxUpdateText,
     with_prepare, false},
    {"CONFIG_UPDATE_RESULT", Type::config_update_result, CA, B, later, 0, sizeof(ConfigUpdate), 0, 0, 0, kMaxUpdateText,
     none, false},
    {"CONFIG_UPDATE_RESULT", Type::config_update_result, U, S, not_yet, 0, sizeof(ConfigUpdate), 0, 0, 0,
     kMaxUpdateText, none, false},
    {"ADOPT", Type::adopt, A, S, greet, run, sizeof(Adopt), 0, 0, 0, 0, none, false},
    {"ADOPT_STATE", Type::adopt_state, A, W | B, greet, run, sizeof(AdoptState), sizeof(AdoptSlot), 0, kMaxSlots, 0,
     FdRule::adopt, true},
    {"COMMIT", Type::commit, CA | U, S, later, 0, sizeof(Gen), 0, 0, 0, 0, none, false},
    {"COMMIT", Type::commit, U, N, run, 0, sizeof(Gen), 0, 0, 0, 0, none, false},
    {"QUERY", Type::query, CA, S, later, 0, 0, 0, 0, 0, kMaxBody, none, true},
    {"QUERY", Type::query, U, N, not_yet, 0, 0, 0, 0, 0, kMaxBody, none, true},
    {"ANSWER", Type::answer, CA, W | B, later, 0, 0, 0, 0, 0, kMaxBody, none, true},
    {"ANSWER", Type::answer, C, K, later, 0, 0, 0, 0, 0, kMaxBody, none, true},

    {"OFFER", Type::offer, H, W, run, 0, 0, sizeof(OfferRecord), 1, kMaxOffers, kMaxBlob, per_record, false},
    {"TAKE", Type::take, H, B, run, 0, 0, sizeof(Hid), 1, kMaxHids, 0, none, false},
    {"REFUSE", Type::refuse, H, B, run, 0, 0, sizeof(Refusal), 1, kMaxHids, 0, none, false},
    {"RECALL", Type::recall, H, W, run, 0, 0, sizeof(Hid), 1, kMaxHids, 0, none, false},
    {"RECALLED", Type::recalled, H, B, run, 0, 0, sizeof(Hid), 1, kMaxHids, 0, none, false},
    {"CREDIT", Type::credit, H, B, run, 0, sizeof(Credit), 0, 0, 0, 0, none, false},
    {"TUNNELS", Type::tunnels, H, B, run, 0, 0, sizeof(TunnelCount), 1, 255, 0, none, false},
    {"GOAWAY", Type::goaway, H, W | B, run, 0, sizeof(Gen), 0, 0, 0, 0, none, false},

    {"FAULT", Type::fault, C | U | A | H, S | W | B | K | N, greet | later, over, sizeof(Fault), 0, 0, 0, kMaxFaultText,
     none, false},
};

template <class T>
T load(ConstSpan body, std::size_t at = 0) {
  T value;
  std::memcpy(&value, body.data() + at, sizeof(T));
  return value;
}
template <class Enum>
bool within(Enum value, Enum first, Enum last) {
  return value >= first && value <= last;
}
template <class T, std::size_t N_>
bool zero(const std::array<T, N_>& pad) {
  return std::ranges::all_of(pad, [](T b) { return b == 0; });
}

bool good_offer(const OfferRecord& r, std::size_t tail) {
  const bool family = r.family == AF_UNSPEC || r.family == AF_UNIX || r.family == AF_INET || r.family == AF_INET6;
  return r.hid != 0 && within(r.klass, OfferClass::raw, OfferClass::tls13) &&
         within(r.role, OfferRole::visitor, OfferRole::tunnel) && (r.flags & ~offer_flags::all) == 0 && family &&
         (r.network == 1 || r.network == 2) && zero(r.pad) && r.blob_len == tail;
}

/// Values inside a body whose length is known to fit its rule. `tail` is what follows the records.
bool good_values(const Rule& rule, const Header& h, ConstSpan body, std::size_t tail) {
  const auto every = [&]<class T>(T, auto good) {
    for (std::size_t i = 0; i < h.nrec; ++i) {
      if (!good(load<T>(body, rule.fixed + i * sizeof(T)))) return false;
    }
    return true;
  };
  switch (rule.type) {
    case Type::hello: {
      const auto m = load<Hello>(body);
      return within(m.role, Role::supervisor, Role::successor) && by(m.role) & rule.senders && zero(m.pad) &&
             zero(m.pad2);
    }
    case Type::config: return within(load<Config>(body).kind, ConfigKind::snapshot, ConfigKind::table);
    case Type::secrets: return load<Secrets>(body).pad == 0;
    case Type::shm: {
      const auto m = load<Shm>(body);
      return within(m.kind, ShmKind::stats, ShmKind::quota) && m.pad == 0 && m.len != 0;
    }
    case Type::slot_grant: return every(SlotGrant{}, [](const SlotGrant& r) { return r.pad == 0; });
    case Type::slot_revoke: return every(SlotId{}, [](const SlotId& r) { return r.pad == 0; });
    case Type::broker_state: {
      const auto m = load<BrokerState>(body);
      return within(m.state, BrokerPhase::warming, BrokerPhase::dead) && m.pad == 0;
    }
    case Type::drain: return load<Drain>(body).pad == 0;
    case Type::logfd: {
      const auto m = load<LogFd>(body);
      return m.which >= LogKind::error && m.pad == 0;
    }
    case Type::ping: return rule.fixed == sizeof(Ping) || load<Pong>(body).pad == 0;
    case Type::config_update: return within(load<ConfigUpdate>(body).phase, UpdatePhase::prepare, UpdatePhase::abort);
    case Type::adopt_state: {
      const auto m = load<AdoptState>(body);
      return m.n == h.nrec && m.shm_kinds < kShmKindsEnd &&
             (m.role == static_cast<std::uint32_t>(Role::worker) || m.role == static_cast<std::uint32_t>(Role::broker));
    }
    case Type::offer:
      return (tail == 0 || h.nrec == 1) &&
             every(OfferRecord{}, [&](const OfferRecord& r) { return good_offer(r, tail); });
    case Type::take:
    case Type::recall:
    case Type::recalled: return every(Hid{}, [](Hid hid) { return hid != 0; });
    case Type::refuse:
      return every(Refusal{}, [](const Refusal& r) {
        return r.hid != 0 && within(r.reason, RefuseReason::draining, RefuseReason::bad_state) && r.pad == 0;
      });
    case Type::credit: return load<Credit>(body).pad == 0;
    case Type::fault: return load<Fault>(body).pad == 0;
    default: return true;  // nothing but free numbers and text
  }
}

std::size_t expected_fds(const Rule& rule, const Header& h, ConstSpan body) {
  switch (rule.fds) {
    case none: return 0;
    case one: return 1;
    case per_record: return h.nrec;
    case with_prepare: return load<ConfigUpdate>(body).phase == UpdatePhase::prepare ? 1 : 0;
    case FdRule::adopt: return h.nrec + static_cast<std::size_t>(std::popcount(load<AdoptState>(body).shm_kinds));
  }
  return 0;
}

/// What an upgrade to another protocol number still exchanges; these messages keep their shape (spec 9.2).
bool frozen(Type type) {
  return type == Type::hello || type == Type::ready || type == Type::start || type == Type::commit ||
         type == Type::slot_grant || type == Type::shm || type == Type::fault;
}

}  // namespace

std::span<const Rule> rules() { return kRules; }

const Rule* find_rule(Type type, Link link, Role sender) {
  for (const Rule& rule : kRules) {
    if (rule.type == type && rule.links & on(link) && rule.senders & by(sender)) return &rule;
  }
  return nullptr;
}

Direction::Direction(Link link, Role sender)
    : link_(link), sender_(sender), phase_(link == Link::handoff ? Phase::running : Phase::greeting) {}

FaultCode Direction::judge(const Header& h, ConstSpan body, const Rule*& rule) const {
  if (h.magic != kMagic) return FaultCode::bad_magic;
  const Type type{h.type};
  if (h.protocol != kProtocol && !(link_ == Link::upgrade && frozen(type))) return FaultCode::bad_protocol;
  if (h.seq != next_seq()) return FaultCode::bad_seq;
  if (h.body_len != body.size() || body.size() > kMaxBody) return FaultCode::bad_length;
  if ((h.flags & ~(flags::critical | flags::more)) != 0) return FaultCode::bad_value;

  rule = find_rule(type, link_, sender_);
  if (rule == nullptr) {
    const bool exists = std::ranges::any_of(kRules, [&](const Rule& r) { return r.type == type; });
    if (exists) return FaultCode::not_allowed;
    if (chain_type_ != 0 || h.flags & flags::more) return FaultCode::bad_more;
    return h.flags & flags::critical ? FaultCode::unknown_type : FaultCode::none;
  }
  if ((rule->phases & bit(phase_)) == 0) return FaultCode::not_allowed;
  if (chain_type_ != 0 && h.type != chain_type_ && type != Type::fault) return FaultCode::bad_more;
  if (h.flags & flags::more && (!rule->more || chain_parts_ + 1u >= kMaxParts)) return FaultCode::bad_more;
  if (h.nrec < rule->min_records || h.nrec > rule->max_records) return FaultCode::bad_count;
  const std::size_t head = rule->fixed + std::size_t{rule->record} * h.nrec;
  if (body.size() < head || body.size() - head > rule->max_tail) return FaultCode::bad_length;
  if (type == Type::hello && link_ != Link::upgrade && load<Hello>(body).protocol != kProtocol) {
    return FaultCode::bad_protocol;
  }
  if (!good_values(*rule, h, body, body.size() - head)) return FaultCode::bad_value;
  return h.nfds == expected_fds(*rule, h, body) ? FaultCode::none : FaultCode::bad_fds;
}

FaultCode Direction::check(const Header& header, ConstSpan body) const {
  const Rule* rule = nullptr;
  const FaultCode code = judge(header, body, rule);
  return code == FaultCode::none && rule == nullptr ? FaultCode::unknown_type : code;
}

FaultCode Direction::accept(const Header& header, ConstSpan body, bool* known) {
  const Rule* rule = nullptr;
  const FaultCode code = judge(header, body, rule);
  if (known != nullptr) *known = rule != nullptr;
  if (code != FaultCode::none) return code;
  ++seq_;
  if (rule == nullptr) return code;
  if (header.flags & flags::more) {
    chain_type_ = header.type;
    ++chain_parts_;
    return code;
  }
  chain_type_ = chain_parts_ = 0;
  if (rule->moves_to != 0) phase_ = Phase{rule->moves_to};
  return code;
}

std::string_view name_of(FaultCode code) {
  switch (code) {
    case FaultCode::none: return "none";
    case FaultCode::bad_magic: return "bad magic";
    case FaultCode::bad_protocol: return "other protocol number";
    case FaultCode::bad_seq: return "gap in the sequence";
    case FaultCode::bad_length: return "bad length";
    case FaultCode::unknown_type: return "unknown type";
    case FaultCode::not_allowed: return "not allowed here and now";
    case FaultCode::bad_count: return "bad record count";
    case FaultCode::bad_value: return "bad value";
    case FaultCode::bad_fds: return "wrong number of fds";
    case FaultCode::bad_more: return "bad continuation";
    case FaultCode::unexpected: return "refers to something unknown";
  }
  return "unknown fault";
}

std::string_view name_of(RefuseReason reason) {
  switch (reason) {
    case RefuseReason::draining: return "draining";
    case RefuseReason::no_portal: return "no tunnel";
    case RefuseReason::overload: return "overload";
    case RefuseReason::ctrunc: return "fds lost";
    case RefuseReason::bad_state: return "bad state";
  }
  return "unknown reason";
}

}  // namespace ebb::ipc
