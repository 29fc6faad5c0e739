// One tunnel's frames in, streams out: incremental decoder, stream table and guard rails. No IO, no clock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "common/protocol/mux/frame.h"

namespace ebb::mux {

/// What feed() reports. Inside a callback any method of the Session may be called except feed(); the Session itself
/// must outlive the feed() call.
struct SessionEvents {
  virtual ~SessionEvents() = default;
  /// Acceptor only: the peer wants a stream. Its data follows by on_data. Call set_user() to attach an object, or
  /// close() (after writing End) to refuse. `trailing` is valid during the call.
  virtual void on_open(StreamId stream, const Target& target, ConstSpan trailing) = 0;
  /// TCP: a piece as it arrived, never empty, valid during the call, usually pointing into the input of feed().
  /// UDP: one whole datagram.
  virtual void on_data(StreamId stream, void* user, ConstSpan piece) = 0;
  /// UDP only, instead of on_data: `from` is the packet's own address where the peer sent one, else null.
  virtual void on_datagram(StreamId stream, void* user, const Target* from, ConstSpan payload) {
    (void)from;
    on_data(stream, user, payload);
  }
  /// The stream is over: the id is forgotten and the End we owe is queued. Write no further frame for it. `error` tells
  /// an aborted stream (reset the client) from a complete one.
  virtual void on_end(StreamId stream, void* user, bool error) = 0;
  /// Half-close (agree_half_close()): the peer sends no more data. Told once, behind its last data. When our direction
  /// was over too, the id is forgotten already and nothing else is told.
  virtual void on_fin(StreamId stream, void* user) {
    (void)stream;
    (void)user;
  }
  /// The peer takes data again on a stream that had no credit left. The session knows no credit: engines above it do.
  virtual void on_credit(StreamId stream, void* user) {
    (void)stream;
    (void)user;
  }
  /// End for an id we do not know: the answer to a ping, or to a stream closed a moment ago.
  virtual void on_stray_end(StreamId stream) { (void)stream; }
};

enum class Role : std::uint8_t { opener, acceptor };  // portal, bridge

struct SessionLimits {
  std::size_t max_streams = 65000;  // live streams; beyond it New is answered with End + Error
  std::size_t max_ids = 65000;      // opener: ids are used once, then the tunnel is spent
};

struct SessionCounters {
  std::uint64_t frames = 0;
  std::uint64_t unknown_data = 0;  // Keep + Data for unknown ids, each answered with End
  std::uint64_t reopened = 0;      // New on a live id: a peer fault
  std::uint64_t surplus = 0;       // New beyond max_streams
  std::uint64_t ignored_new = 0;   // New sent to an opener
  std::uint64_t after_fin = 0;     // data behind the peer's own FIN: a peer fault, the stream is aborted
};

/// Opener: allocates ids 1, 2, 3 ... once each. Acceptor: takes whatever ids the peer uses.
/// Source: PROTOCOL.md.
class Session {
 public:
  explicit Session(Role role, SessionLimits limits = {});

  /// Handles tunnel bytes, any split. An error is fatal: close the transport at once, abort all streams, feed no more.
  /// Buffers at most one head, or one UDP datagram (64 KiB).
  Decoded<> feed(ConstSpan in, SessionEvents& events);

  /// Frames the session owes the peer (End answers and what append_output() added); append them to the tunnel's output
  /// at a frame border, after every feed(). Bounded: answers to unknown ids are dropped above 64 KiB.
  Bytes take_output();
  bool has_output() const { return !output_.empty(); }

  struct Opened {
    StreamId stream;
    std::size_t head_bytes;  // written to `out`
  };
  /// Opener: allocates an id, enters it and writes New to `out` (kMaxHead bytes). The caller appends `data_bytes` bytes
  /// of first payload. nullopt: ids or table used up, or write_new() refused the target. Never give trailing bytes
  /// together with data on UDP unless the peer is known not to be Xray.
  std::optional<Opened> open(const Target& target, void* user, MutSpan out, std::size_t data_bytes = 0,
                             ConstSpan trailing = {});

  /// The local side forgets the stream. It has written End itself; later data of the peer is answered with End.
  void close(StreamId stream);
  void set_user(StreamId stream, void* user);
  /// No answer when the peer ends this stream (control streams; streams we have sent End for but still listen to).
  void set_silent(StreamId stream);
  /// The FIN bit means something on this stream, in both directions (negotiated; PROTOCOL.md, half-closes).
  void agree_half_close(StreamId stream);
  bool half_close(StreamId stream) const;
  /// The peer may say why in the data part of an End + Error (negotiated): on_end() comes behind it then. Without that
  /// it is thrown away.
  void agree_end_data() { end_data_agreed_ = true; }
  static constexpr std::size_t kMaxEndData = 256;  // bytes that are kept of it
  /// During on_end(): the data part of that End; empty: it had none.
  ConstSpan end_data() const { return end_data_; }
  /// The caller wrote a Keep with the FIN bit. True: the peer had sent its own, the id is forgotten, no frame follows.
  bool fin_sent(StreamId stream);
  /// The stream waits for nothing but the rest of an answer: held_streams() counts it.
  void set_held(StreamId stream);
  /// Every data part of this stream is one message, delivered whole by on_datagram, whatever the network in its New.
  void set_message_stream(StreamId stream);

  bool live(StreamId stream) const { return streams_.contains(stream.value); }
  void* user(StreamId stream) const;
  std::optional<Network> network(StreamId stream) const;
  std::size_t live_streams() const { return streams_.size(); }
  std::size_t held_streams() const { return held_; }
  std::size_t ids_used() const { return ids_used_; }
  bool ids_left() const { return ids_used_ < limits_.max_ids; }
  std::size_t ids_free() const { return limits_.max_ids - ids_used_; }
  const SessionCounters& counters() const { return counters_; }
  /// True between the frames of the peer: where a tunnel may end without being cut. By this the conformance vectors and
  /// the fuzz target tell a frame that is not complete from one that was skipped.
  bool at_frame_border() const { return partial_.empty() && data_left_ == 0; }
  /// Ids of all live streams, in no order.
  std::vector<StreamId> ids() const;

  /// Queues ready-made frames on take_output().
  void append_output(ConstSpan frames);
  /// Queues an End frame.
  void queue_end(StreamId stream, bool error);

 private:
  struct Stream {
    void* user = nullptr;
    Network network = Network::tcp;
    bool silent = false;
    bool half_close = false;  // agreed
    bool fin_sent = false;
    bool fin_received = false;
    bool held = false;
  };
  using Streams = std::unordered_map<std::uint16_t, Stream>;
  enum class Body : std::uint8_t { skip, stream, datagram, end };

  Decoded<> start_frame(const Head& head, SessionEvents& events);
  Decoded<> on_new(const Head& head, SessionEvents& events);
  void on_keep(const Head& head, SessionEvents& events);
  void on_end(const Head& head, SessionEvents& events);
  void ended(StreamId stream, bool error, SessionEvents& events);
  void on_fin(StreamId stream, SessionEvents& events);
  void erase(Streams::iterator stream);
  std::size_t take_body(ConstSpan in, SessionEvents& events);
  void deliver_datagram(ConstSpan payload, SessionEvents& events);
  void answer_unknown(StreamId stream);

  Role role_;
  SessionLimits limits_;
  Streams streams_;
  std::size_t held_ = 0;
  std::size_t ids_used_ = 0;
  Bytes partial_;   // a head cut by the end of the input, at most kMaxHead bytes
  Bytes datagram_;  // a datagram cut by the end of the input
  Bytes output_;
  std::optional<std::uint16_t> last_answered_;  // no second End for the same id in one batch of output
  // the frame whose data part we are in
  StreamId current_;
  Body body_ = Body::skip;
  std::size_t data_left_ = 0;
  bool fin_follows_ = false;  // behind its data
  std::optional<Target> packet_from_;
  bool end_data_agreed_ = false;
  Bytes end_data_;
  SessionCounters counters_;
};

}  // namespace ebb::mux
