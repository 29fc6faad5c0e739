// One end of a link between two of our processes: a SEQPACKET socket that carries messages and fds.
// Knows no event loop: it is an fd, on_readable() and on_writable(). Source: PROTOCOL.md, reading a link.
#pragma once

#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/fd.h"
#include "common/base/result.h"
#include "ipc/codec.h"
#include "ipc/message.h"

namespace ebb::ipc {

enum class Sent : std::uint8_t {
  sent,     // it is in the kernel's queue: it will be read even if we die now
  queued,   // it is in ours; order is kept, on_writable() sends it
  full,     // try_send: the kernel has no room now. send: our own queue is at its bound. Nothing was kept
  dead,     // the peer's end is closed
  illegal,  // the table forbids this message here: a bug of the caller. Nothing was sent
};

/// A message handed to a reader. Views point into the channel's buffer: valid until the next read.
struct Message {
  Header header;
  ConstSpan body;
  std::vector<Fd> fds;    // owned; as many as the header says, unless fds_lost
  bool fds_lost = false;  // CTRUNC or a wrong count: everything that came was closed (only OFFER gets this far)

  Type type() const { return Type{header.type}; }
  bool more() const { return (header.flags & flags::more) != 0; }
  /// The fixed part. The codec has checked that it is there.
  template <class T>
  T as() const {
    T value;
    std::memcpy(&value, body.data(), sizeof(T));
    return value;
  }
  /// header.nrec records from `offset` bytes into the body.
  template <class T>
  std::vector<T> records(std::size_t offset = 0) const {
    std::vector<T> out(header.nrec);
    if (!out.empty()) std::memcpy(out.data(), body.data() + offset, out.size() * sizeof(T));
    return out;
  }
  std::string_view text(std::size_t offset) const { return as_text(body.subspan(offset)); }
};

/// What the handoff logic needs of a link; a Channel is one, a test's fake another.
class Sender {
 public:
  virtual ~Sender() = default;
  /// Sends now or queues. fds are borrowed: duplicated if the message has to wait.
  virtual Sent send(Type type, ConstSpan body, std::span<const int> fds = {}, std::uint8_t nrec = 0,
                    std::uint8_t extra_flags = 0) = 0;
  /// Sends now or not at all (`full`); never overtakes what send() queued.
  virtual Sent try_send(Type type, ConstSpan body, std::span<const int> fds = {}, std::uint8_t nrec = 0) = 0;
};

enum class ReadEnd : std::uint8_t {
  drained,  // nothing more now
  busy,     // the per-call bound was reached: there may be more
  starved,  // fewer than 64 spare fds: stop polling for reading until there are more
  eof,      // the peer is gone and every message it queued has been read
  fault,    // the peer broke the protocol; it was told, the link is closed: see fault()
};

class Channel final : public Sender {
 public:
  struct Options {
    std::size_t max_queued_messages = 1024;
    std::size_t max_queued_bytes = 4 * 1024 * 1024;
    std::size_t max_queued_fds = 256;
    std::size_t messages_per_read = 64;
    std::function<bool()> fds_to_spare;  // true while this process has >= 64 free fds; empty = always
  };

  Channel(Fd fd, Link link, Role self, Role peer) : Channel(std::move(fd), link, self, peer, Options{}) {}
  Channel(Fd fd, Link link, Role self, Role peer, Options options);

  /// -1 after close(). After a fault it is still open, so that it can be taken out of an epoll set: that knows
  /// descriptions, and a copy elsewhere would keep the entry alive.
  int fd() const { return fd_.get(); }
  /// False after close() or a fault. A dead peer leaves it open: its last messages are still to be read.
  bool open() const { return fd_ && fault_ == FaultCode::none; }
  void close();

  Sent send(Type type, ConstSpan body, std::span<const int> fds = {}, std::uint8_t nrec = 0,
            std::uint8_t extra_flags = 0) override;
  Sent try_send(Type type, ConstSpan body, std::span<const int> fds = {}, std::uint8_t nrec = 0) override;

  /// A fixed body: `channel.send_body(Type::ready, Ready{...})`; `tail` is the text some bodies end with.
  template <class Body>
  Sent send_body(Type type, const Body& body, std::span<const int> fds = {}, std::string_view tail = {}) {
    if (tail.empty()) return send(type, bytes_of(body), fds);
    Bytes joined(sizeof(Body) + tail.size());
    std::memcpy(joined.data(), &body, sizeof(Body));
    std::memcpy(joined.data() + sizeof(Body), tail.data(), tail.size());
    return send(type, joined, fds);
  }
  template <class Record>
  Sent send_records(Type type, std::span<const Record> records, std::span<const int> fds = {}) {
    return send(type, bytes_of_records(records), fds, static_cast<std::uint8_t>(records.size()));
  }
  /// JSON of any length (QUERY, ANSWER): cut into messages chained by MORE, all or nothing queued.
  /// Errors: illegal beyond kMaxParts messages, full.
  Sent send_long_text(Type type, std::string_view text);
  /// Tells the peer what it did wrong (best effort) and ends the link, for every copy of this end.
  void send_fault(FaultCode code, std::string_view text);

  /// Reads until nothing is left, at most messages_per_read messages. `handler(Message&)` may send on this
  /// channel and may close() it, but must not destroy it. After `eof` or `fault` do not call again.
  /// ECONNRESET is not the end: the kernel reports it before the messages a dead peer left behind (spec 5).
  template <class Handler>
  ReadEnd on_readable(Handler&& handler) {
    for (std::size_t n = 0; n < options_.messages_per_read; ++n) {
      ReadEnd end = ReadEnd::drained;
      std::optional<Message> message = next(end);
      if (!message) return end;
      handler(*message);
      if (!open()) return fault_ == FaultCode::none ? ReadEnd::eof : ReadEnd::fault;
    }
    return ReadEnd::busy;
  }
  /// The single step of on_readable: a message, or nullopt and the reason.
  std::optional<Message> next(ReadEnd& end);

  /// Sends what waits. Call when the socket is writable, and some milliseconds after wants_retry().
  void on_writable();
  /// Poll for writing: something is queued, or a try_send() found no room.
  bool wants_write() const { return blocked_ == Blocked::buffer && !send_dead_; }
  /// The uid's limit of fds in flight was hit (ETOOMANYREFS). The socket polls as writable all the same, so
  /// polling would spin: call on_writable() again after about 5 ms.
  bool wants_retry() const { return blocked_ == Blocked::refs && !send_dead_; }
  std::size_t queued() const { return queue_.size(); }
  bool peer_dead() const { return send_dead_; }

  FaultCode fault() const { return fault_; }
  Phase sending_phase() const { return out_.phase(); }
  Phase receiving_phase() const { return in_.phase(); }

 private:
  struct Queued {
    Header header;
    Bytes body;
    std::vector<Fd> fds;
  };
  enum class Blocked : std::uint8_t { no, buffer, refs };

  Sent push(const Header& header, ConstSpan body, std::span<const int> fds);
  Header make_header(Type type, ConstSpan body, std::size_t nfds, std::uint8_t nrec, std::uint8_t extra) const;
  bool enqueue(const Header& header, ConstSpan body, std::span<const int> fds);
  std::optional<Message> fail(ReadEnd& end, FaultCode code);
  void forget_queue();

  Fd fd_;
  Options options_;
  Direction in_, out_;
  std::deque<Queued> queue_;
  std::size_t queued_bytes_ = 0, queued_fds_ = 0;
  Blocked blocked_ = Blocked::no;
  bool send_dead_ = false;
  FaultCode fault_ = FaultCode::none;
  std::unique_ptr<std::uint64_t[]> buffer_;  // one message; 8-byte aligned
};

/// Two connected ends: SEQPACKET, CLOEXEC, NONBLOCK, send buffers of 1 MiB as far as the kernel allows.
Result<std::pair<Fd, Fd>> pair();
/// Applies the send buffer to an end made elsewhere (the adoption socket). Best effort.
void widen_send_buffer(int fd);
/// uid of the process at the other end (SO_PEERCRED; of a socketpair, its maker). nullopt when it is no such socket.
std::optional<unsigned> peer_uid(int fd);

}  // namespace ebb::ipc
