// A stream with its layers and its unsent bytes: plaintext in and out of a connection. What sides and tunnels stand on.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/base/result.h"
#include "common/net/stream.h"
#include "worker/layers/stack.h"
#include "worker/relay/out_queue.h"

namespace ebb::relay {

/// Callbacks of a Wire. None of them may destroy the wire: its owner goes by deferred work.
class WireObserver {
 public:
  /// Asked before each read: at most how many bytes; 0 puts the wire to sleep until set_reading(true).
  virtual std::size_t may_read() { return static_cast<std::size_t>(-1); }
  /// Plaintext, valid until on_batch_end() returns.
  virtual void on_plain(MutSpan bytes) = 0;
  /// All that one read brought has been told.
  virtual void on_batch_end() = 0;
  /// The peer finished cleanly.
  virtual void on_wire_end() = 0;
  /// The connection is dead; nothing else will be told.
  virtual void on_wire_failed(Error why) = 0;
  /// The unsent bytes fell below the low watermark after has_room() said no. Told on a turn of its own, never inside a
  /// send(), flush() or somebody's read: whoever reads now may use the loop's read buffer.
  virtual void on_wire_room() = 0;
  /// Bytes that were queued have gone out. Told inside send(), flush() and on turns of its own.
  virtual void on_wire_progress() {}
  /// It may be given up when memory is short and its peer takes too little. No: others would suffer with it.
  virtual bool expendable() const { return true; }
  /// Everything handed over, the end mark included, is in the kernel. Told once after send_end().
  virtual void on_wire_sent_all() {}

 protected:
  ~WireObserver() = default;
};

class Wire final : private net::StreamObserver, private layers::Sink {
 public:
  static constexpr std::size_t kHigh = 1024 * 1024;  // unsent bytes: above, has_room() is false; or while pressed()
  static constexpr std::size_t kLow = 256 * 1024;
  static constexpr std::size_t kDialling = 64 * 1024;  // the same without a stream

  /// `stack` empty: plain bytes. Without a stream (a dial under way) output is queued until attach().
  Wire(net::Loop& loop, BlockPool& blocks, layers::Stack stack);
  ~Wire();
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  void observe(WireObserver* observer) { observer_ = observer; }
  /// Takes the stream, and bytes read from it earlier and not yet opened. Reading starts at once, on a later turn.
  void attach(std::unique_ptr<net::Stream> stream, Bytes unread = {});
  bool attached() const { return stream_ != nullptr; }
  net::Stream* stream() { return stream_.get(); }
  const net::Stream* stream() const { return stream_.get(); }
  net::Loop& loop() { return loop_; }

  /// Sends `parts`. Without layers they are written at flush(), which has to come before the bytes become invalid; a
  /// layer takes them at once, and what it made is written at the end of the wake-up.
  void send(std::span<const ConstSpan> parts);
  void send(ConstSpan piece) { send(std::span(&piece, 1)); }
  void flush();
  /// No more from us: the layers' end marks, or a half-close, once all is written.
  void send_end();
  bool has_room() const;
  std::size_t queued() const { return queue_.bytes(); }
  bool pressed() const { return queue_.pressed(); }
  /// Bytes the kernel has taken, ever: a consumer that makes progress moves it.
  std::uint64_t written() const { return written_; }
  /// Of these, what the peer has acknowledged: a send buffer of megabytes hides for long who takes what. A system call.
  std::uint64_t taken() const {
    const std::uint64_t waiting = stream_ ? stream_->undelivered() : 0;
    return written_ - (waiting < written_ ? waiting : written_);
  }
  /// What written() will be when all that is queued now has gone.
  std::uint64_t accepted() const { return written_ + queue_.bytes(); }
  std::uint64_t received() const { return received_; }

  void set_reading(bool reading);
  /// Reads once now if bytes are there: a consumer with room again calls this in its turn.
  void read_now();
  /// From now on what arrives is thrown away unopened (winding down); more than `at_most` bytes, and the wire fails.
  void discard_input(std::size_t at_most = static_cast<std::size_t>(-1));
  /// Ends the connection with a reset. Nothing is told afterwards.
  void reset();
  /// The same, and on_wire_failed() tells.
  void give_up(Error why);
  /// Closes. Nothing is told afterwards.
  void close();
  /// The same, but the stream lives on elsewhere (net::linger_close).
  std::unique_ptr<net::Stream> detach();
  bool ended() const { return ended_; }

 private:
  friend class Shortage;
  void on_readable() override;
  void on_writable() override;
  void later();
  void watch();
  void take_unread();
  void take(MutSpan buffer, std::size_t at);
  bool on_plain(MutSpan bytes) override;
  void speak();
  void fail(Error why);
  void after_write();
  void write_out();

  net::Loop& loop_;
  BlockPool& blocks_;
  Wire* prev_ = nullptr;  // of those that share the pool
  Wire* next_ = nullptr;
  layers::Stack stack_;
  std::unique_ptr<net::Stream> stream_;
  WireObserver* observer_ = nullptr;
  OutQueue queue_;
  Bytes leftover_;              // came with attach() and was not opened yet
  std::vector<iovec> pending_;  // plain: pieces of this batch, not ours
  net::Deferred flush_later_;
  std::uint64_t written_ = 0;
  std::uint64_t received_ = 0;
  std::uint64_t discard_until_ = 0;  // of received_
  bool reading_ = true;
  bool ended_ = false;  // the peer finished
  bool failed_ = false;
  bool end_wanted_ = false;
  bool end_sent_ = false;
  bool told_no_room_ = false;
  bool discard_ = false;
  bool unread_ = false;  // something can be opened without a read
  bool marked_ = false;  // by Shortage
};

}  // namespace ebb::relay
