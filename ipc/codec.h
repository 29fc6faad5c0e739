// Strict validation of messages, and the one table that says who may send what, on which link, in which phase.
// No IO: a header, the body's bytes and the number of fds go in, a FaultCode comes out.
#pragma once

#include <cstdint>
#include <span>

#include "common/base/bytes.h"
#include "ipc/message.h"

namespace ebb::ipc {

/// How far the sender of a direction has come, judged by its own messages alone, so that crossing messages
/// never look like violations. Handoff links start in `running`.
enum class Phase : std::uint8_t { greeting = 1, setup = 2, running = 4, leaving = 8, over = 16 };

/// How many fds a message carries.
enum class FdRule : std::uint8_t {
  none,
  one,
  per_record,
  with_prepare,  // one with phase PREPARE
  adopt,         // one per record, then one per bit of shm_kinds
};

/// One line of the table.
struct Rule {
  const char* name;
  Type type;
  std::uint8_t links;     // bit (1 << Link)
  std::uint8_t senders;   // bit (1 << Role)
  std::uint8_t phases;    // Phase bits in which it is legal
  std::uint8_t moves_to;  // the sender's phase afterwards (with MORE: after the last part); 0 = stays
  std::uint16_t fixed;    // bytes of the fixed part
  std::uint16_t record;   // bytes of one record, 0 = none
  std::uint8_t min_records, max_records;
  std::uint16_t max_tail;  // bytes of text or blob after the records
  FdRule fds;
  bool more;  // may be chained by MORE
};

/// The whole table; PROTOCOL.md prints it.
std::span<const Rule> rules();
/// The rule for a message of this type by this sender on this link, whatever the phase; null if there is none.
const Rule* find_rule(Type type, Link link, Role sender);

/// One direction of a link: remembers the phase, the sequence number and an open MORE chain.
class Direction {
 public:
  Direction(Link link, Role sender);

  /// Checks one message completely. On `none` the direction has advanced (seq, phase, chain).
  /// Only the header's nfds is judged; whether as many arrived is the channel's business (CTRUNC).
  /// An unknown type without CRITICAL passes with `*known` false: skip it.
  /// Source: PROTOCOL.md.
  FaultCode accept(const Header& header, ConstSpan body, bool* known = nullptr);

  /// For the sending side: what accept() at the other end would say of this message; does not advance.
  FaultCode check(const Header& header, ConstSpan body) const;

  Phase phase() const { return phase_; }
  std::uint32_t next_seq() const { return seq_ + 1; }
  Role sender() const { return sender_; }
  Link link() const { return link_; }

 private:
  FaultCode judge(const Header& header, ConstSpan body, const Rule*& rule) const;

  Link link_;
  Role sender_;
  Phase phase_;
  std::uint32_t seq_ = 0;
  std::uint16_t chain_type_ = 0;  // of the open MORE chain, 0 = none
  std::uint16_t chain_parts_ = 0;
};

/// Bytes of a struct, for sending.
template <class T>
ConstSpan bytes_of(const T& value) {
  return {reinterpret_cast<const std::uint8_t*>(&value), sizeof(T)};
}
template <class T>
ConstSpan bytes_of_records(std::span<const T> records) {
  return {reinterpret_cast<const std::uint8_t*>(records.data()), records.size_bytes()};
}

}  // namespace ebb::ipc
