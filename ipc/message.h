// Every message between our processes, as plain structs in host byte order (same machine, same binary).
// Catalogue with directions and meanings: ipc/PROTOCOL.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace ebb::ipc {

inline constexpr std::uint16_t kMagic = 0x5250;
extern const std::uint8_t kProtocol;                   // protocol.cc: raised with any change; never negotiated
inline constexpr std::size_t kMaxBody = 48 * 1024;     // bytes after the header
inline constexpr std::size_t kMaxFds = 253;            // 254 is EINVAL in the kernel
inline constexpr std::size_t kMaxParts = 64;           // messages chained by MORE
inline constexpr std::size_t kMaxOffers = 32;          // records in one OFFER: more gains little (spec 5)
inline constexpr std::size_t kMaxHids = 64;            // records in TAKE, REFUSE, RECALL, RECALLED
inline constexpr std::size_t kMaxSlots = 64;           // records in SLOT_GRANT, SLOT_REVOKE, ADOPT_STATE
inline constexpr std::uint32_t kDefaultCredits = 256;  // un-ACKed offers per link
inline constexpr std::uint32_t kNoUser = 0xFFFFFFFF;

/// Who sits at an end. `successor` is the new supervisor of a binary upgrade, `supervisor` the old one.
enum class Role : std::uint8_t { supervisor = 1, worker = 2, broker = 3, checker = 4, successor = 5 };
/// What kind of link: it decides, with the sender's role and phase, which messages are legal (codec.h).
enum class Link : std::uint8_t { ctl, upgrade, adoption, handoff };

/// Two names for one number: the same exchange, asked one way and answered the other.
enum class Type : std::uint16_t {
  hello = 1,
  config = 2,
  secrets = 3,
  shm = 4,
  slot_grant = 5,
  slot_revoke = 6,
  slot_revoked = 6,
  link_add = 7,
  broker_state = 8,
  ready = 9,
  start = 10,
  started = 10,
  drain = 11,
  pause = 12,
  paused = 12,
  drained = 13,
  logfd = 14,
  ping = 15,
  pong = 15,
  stats = 16,
  config_update = 17,
  config_update_result = 17,
  adopt = 18,
  adopt_state = 19,
  commit = 20,
  query = 21,
  answer = 21,
  offer = 32,
  take = 33,
  refuse = 34,
  recall = 35,
  recalled = 36,
  credit = 37,
  tunnels = 38,
  goaway = 39,
  fault = 40,
};

namespace flags {
inline constexpr std::uint8_t critical = 1;  // the receiver must know the type, else close the link
inline constexpr std::uint8_t more = 2;      // continues in the next message, which has the same type
}  // namespace flags

struct Header {
  std::uint16_t magic = kMagic;
  std::uint8_t protocol = kProtocol;
  std::uint8_t flags = flags::critical;
  std::uint16_t type = 0;
  std::uint8_t nfds = 0;  // fds attached
  std::uint8_t nrec = 0;  // records in the body
  std::uint32_t seq = 0;  // per direction, first is 1
  std::uint32_t body_len = 0;
};
static_assert(sizeof(Header) == 16 && std::is_trivially_copyable_v<Header>);

// ---- supervisor and children ------------------------------------------------------------------

struct Hello {
  std::uint32_t protocol = kProtocol;
  Role role{};
  std::array<std::uint8_t, 3> pad{};
  std::uint64_t gen = 0;
  std::uint32_t pid = 0;
  std::uint32_t caps = 0;
  std::array<std::uint8_t, 20> build_id{};
  std::array<std::uint8_t, 4> pad2{};
};

enum class ConfigKind : std::uint32_t { snapshot = 1, table = 2 };
struct Config {  // + 1 sealed memfd of `len` bytes
  std::uint64_t gen = 0;
  std::uint64_t len = 0;
  ConfigKind kind = ConfigKind::snapshot;
  std::uint32_t table = 0;
  std::array<std::uint8_t, 32> sha256{};
};

struct Secrets {  // + 1 sealed memfd
  std::uint64_t gen = 0;
  std::uint64_t len = 0;
  std::uint32_t n = 0;
  std::uint32_t pad = 0;
};

/// `snapshot` is no shared memory but the sealed configuration of an adopted process: a bit of ADOPT_STATE only.
enum class ShmKind : std::uint32_t { stats = 1, replay = 2, quota = 3, snapshot = 4 };
/// What ADOPT_STATE calls a kind.
constexpr std::uint32_t shm_bit(ShmKind kind) { return 1u << (static_cast<std::uint32_t>(kind) - 1); }
inline constexpr std::uint32_t kShmKindsEnd = shm_bit(ShmKind::snapshot) << 1;  // sets of them are below
struct Shm {                                                                    // + 1 memfd whose size is sealed
  std::uint64_t len = 0;
  ShmKind kind = ShmKind::stats;
  std::uint32_t pad = 0;
};

struct SlotGrant {  // record; one fd each, in order
  std::uint64_t cookie = 0;
  std::uint32_t slot = 0;
  std::uint32_t listener = 0;
  std::uint16_t inbound = 0;
  std::uint16_t backlog = 0;
  std::uint32_t pad = 0;
};

struct SlotId {  // record of SLOT_REVOKE and SLOT_REVOKED
  std::uint32_t slot = 0;
  std::uint32_t pad = 0;
};

struct LinkAdd {  // + 1 end of a handoff link
  std::uint64_t broker_gen = 0;
  std::uint32_t worker_id = 0;
  std::uint32_t credits = kDefaultCredits;
};

enum class BrokerPhase : std::uint32_t { warming = 1, active = 2, draining = 3, dead = 4 };
struct BrokerState {
  std::uint64_t broker_gen = 0;
  BrokerPhase state = BrokerPhase::warming;
  std::uint32_t pad = 0;
};

struct Ready {
  std::uint64_t gen = 0;
  std::uint64_t rss = 0;  // bytes
};

struct Gen {  // START, STARTED, PAUSE, PAUSED, COMMIT, GOAWAY
  std::uint64_t gen = 0;
};

struct Drain {
  std::uint64_t deadline_ms = 0;
  std::uint32_t jitter_ms = 0;
  std::uint32_t pad = 0;
};

struct Drained {
  std::uint32_t left_conns = 0;
  std::uint32_t left_unacked = 0;
};

enum class LogKind : std::uint32_t { error = 1, access = 2 };  // further numbers: more log files
struct LogFd {                                                 // + 1 fd
  LogKind which = LogKind::error;
  std::uint32_t pad = 0;
};

struct Ping {
  std::uint64_t t = 0;
};
struct Pong {
  std::uint64_t t = 0;  // the ping's
  std::uint32_t loop_lag_us = 0;
  std::uint32_t conns = 0;
  std::uint32_t fds_free = 0;
  std::uint32_t pad = 0;
};

/// Counter of STATS: handoff links to one broker that a worker had to close because either end broke the protocol.
/// Label: the lower 32 bits of the broker generation. The supervisor answers with another link (LINK_ADD).
inline constexpr std::uint32_t kLinkFaults = 1;
struct Stat {  // record of STATS
  std::uint32_t counter = 0;
  std::uint32_t label = 0;
  std::uint64_t delta = 0;
};

enum class UpdatePhase : std::uint32_t { prepare = 1, commit = 2, abort = 3 };
struct ConfigUpdate {  // PREPARE: + 1 sealed memfd with the snapshot. Text (<= 256 bytes) follows
  std::uint64_t gen = 0;
  UpdatePhase phase = UpdatePhase::prepare;
  std::uint32_t code = 0;  // in the result: 0 OK; 1 usable, but needs a new process; 2 unusable. Text says why
};
inline constexpr std::size_t kMaxUpdateText = 256;

struct Adopt {
  std::array<std::uint8_t, 16> instance{};
  std::uint64_t gen = 0;
};

struct AdoptState {  // then n AdoptSlot records; fds: n slots, then one memfd per bit of shm_kinds, lowest bit first
  std::uint64_t gen = 0;
  std::uint32_t role = 0;
  std::uint32_t conns = 0;
  std::uint32_t n = 0;
  std::uint32_t shm_kinds = 0;  // shm_bit() of each
  std::array<std::uint8_t, 32> config_sha256{};
};
struct AdoptSlot {
  std::uint64_t cookie = 0;
  std::uint32_t slot = 0;
  std::uint32_t listener = 0;
};

// ---- worker and broker ------------------------------------------------------------------------

using Hid = std::uint64_t;
/// worker generation (16) . worker id (16) . counter (32): unique per boot of the service.
constexpr Hid make_hid(std::uint16_t generation, std::uint16_t worker, std::uint32_t counter) {
  return std::uint64_t{generation} << 48 | std::uint64_t{worker} << 32 | counter;
}
constexpr std::uint16_t worker_of(Hid hid) { return static_cast<std::uint16_t>(hid >> 32); }

enum class OfferClass : std::uint8_t { raw = 1, state = 2, relay = 3, tls13 = 4 };
enum class OfferRole : std::uint8_t { visitor = 1, tunnel = 2 };
namespace offer_flags {
inline constexpr std::uint16_t nodelay = 1;
inline constexpr std::uint16_t proxy_header = 2;  // a PROXY header was parsed
inline constexpr std::uint16_t retry = 4;         // was offered before
inline constexpr std::uint16_t all = 7;
}  // namespace offer_flags

struct OfferRecord {
  Hid hid = 0;
  std::uint64_t accepted_ns = 0;  // CLOCK_MONOTONIC
  std::uint64_t cookie = 0;       // SO_COOKIE
  std::uint16_t inbound = 0;      // ids are those of the sending worker's configuration generation
  std::uint16_t portal = 0;
  OfferClass klass = OfferClass::raw;
  OfferRole role = OfferRole::visitor;
  std::uint16_t flags = 0;
  std::uint32_t blob_len = 0;  // a record with a blob goes alone, the blob follows it
  std::uint32_t user = kNoUser;
  std::uint32_t so_mark = 0;
  std::uint8_t family = 0;   // AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6
  std::uint8_t network = 1;  // of the request: 1 TCP, 2 UDP (datagrams inside this stream)
  std::uint16_t peer_port = 0;
  std::array<std::uint8_t, 16> peer{};  // IPv4 mapped
  std::array<std::uint8_t, 16> local{};
  std::uint16_t local_port = 0;
  std::array<std::uint8_t, 6> pad{};
};
inline constexpr std::size_t kMaxBlob = kMaxBody - sizeof(OfferRecord);

enum class RefuseReason : std::uint32_t { draining = 1, no_portal = 2, overload = 3, ctrunc = 4, bad_state = 5 };
struct Refusal {
  Hid hid = 0;
  RefuseReason reason = RefuseReason::overload;
  std::uint32_t pad = 0;
};

struct Credit {
  std::uint32_t window = kDefaultCredits;  // absolute; 0 = stop
  std::uint32_t pad = 0;
};

struct TunnelCount {  // record of TUNNELS
  std::uint16_t portal = 0;
  std::uint16_t live = 0;
  std::uint32_t streams = 0;
};

enum class FaultCode : std::uint32_t {
  none = 0,
  bad_magic = 1,
  bad_protocol = 2,
  bad_seq = 3,
  bad_length = 4,
  unknown_type = 5,
  not_allowed = 6,  // not from this role, on this link, in this phase
  bad_count = 7,
  bad_value = 8,
  bad_fds = 9,
  bad_more = 10,
  unexpected = 11,  // refers to something that does not exist: an unknown hid, a second offer of the same one
};
struct Fault {  // then text, <= 128 bytes
  FaultCode code = FaultCode::none;
  std::uint32_t pad = 0;
};
inline constexpr std::size_t kMaxFaultText = 128;

std::string_view name_of(FaultCode code);
std::string_view name_of(RefuseReason reason);

// ---- the shapes, pinned -----------------------------------------------------------------------

template <class T, std::size_t Bytes>
inline constexpr bool kPinned = sizeof(T) == Bytes && Bytes % 8 == 0 && std::is_trivially_copyable_v<T> &&
                                std::is_standard_layout_v<T> && alignof(T) <= 8;
static_assert(kPinned<Hello, 48> && kPinned<Config, 56> && kPinned<Secrets, 24> && kPinned<Shm, 16>);
static_assert(kPinned<SlotGrant, 24> && kPinned<SlotId, 8> && kPinned<LinkAdd, 16> && kPinned<BrokerState, 16>);
static_assert(kPinned<Ready, 16> && kPinned<Gen, 8> && kPinned<Drain, 16> && kPinned<Drained, 8>);
static_assert(kPinned<LogFd, 8> && kPinned<Ping, 8> && kPinned<Pong, 24> && kPinned<Stat, 16>);
static_assert(kPinned<ConfigUpdate, 16> && kPinned<Adopt, 24> && kPinned<AdoptState, 56> && kPinned<AdoptSlot, 16>);
static_assert(kPinned<OfferRecord, 88> && kPinned<Refusal, 16> && kPinned<Credit, 8> && kPinned<TunnelCount, 8>);
static_assert(kPinned<Fault, 8> && kPinned<Hid, 8>);
static_assert(offsetof(Hello, gen) == 8 && offsetof(Hello, build_id) == 24);
static_assert(offsetof(OfferRecord, inbound) == 24 && offsetof(OfferRecord, klass) == 28 &&
              offsetof(OfferRecord, flags) == 30 && offsetof(OfferRecord, user) == 36 &&
              offsetof(OfferRecord, family) == 44 && offsetof(OfferRecord, peer_port) == 46 &&
              offsetof(OfferRecord, peer) == 48 && offsetof(OfferRecord, local) == 64 &&
              offsetof(OfferRecord, local_port) == 80);

}  // namespace ebb::ipc
