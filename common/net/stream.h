// A byte stream by readiness: read, write, and being told when either may work again. TcpStream is the real one,
// MemoryStream (tests/support) has injected faults.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <optional>
#include <span>

#include "common/base/address.h"
#include "common/base/bytes.h"
#include "common/base/fd.h"
#include "common/net/loop.h"
#include "common/net/path_info.h"

namespace ebb::net {

struct IoResult {
  enum class Kind : std::uint8_t { ok, would_block, end, error };
  Kind kind = Kind::ok;
  std::size_t bytes = 0;  // with ok
  int error = 0;          // errno, with error
};

class StreamObserver {
 public:
  virtual void on_readable() = 0;  // also at end of stream and on errors: read() tells
  virtual void on_writable() = 0;

 protected:
  ~StreamObserver() = default;
};

class Stream {
 public:
  explicit Stream(Loop& loop) : loop_(loop) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  virtual ~Stream();

  virtual IoResult read(MutSpan into) = 0;
  virtual IoResult write(std::span<const iovec> pieces) = 0;
  /// Ends our direction: the peer reads end of stream after what was written.
  virtual void shutdown_write() = 0;
  /// Ends the connection so that the peer sees a reset; nothing works afterwards.
  virtual void reset() = 0;
  /// The peer's address, when there is one.
  virtual std::optional<Endpoint> peer() const { return std::nullopt; }
  /// Bytes written that the peer's kernel has not acknowledged; 0 where nobody can tell.
  virtual std::size_t undelivered() const { return 0; }
  /// What is known of the path to the peer; nullopt where there is none. A system call.
  virtual std::optional<PathInfo> path() const { return std::nullopt; }
  /// Takes the descriptor out (handing a connection over); the stream is dead afterwards.
  virtual Fd release() { return {}; }

  Loop& loop() { return loop_; }
  void observe(StreamObserver* observer) { observer_ = observer; }
  /// Which events the observer wants. Nothing is asked of the kernel: readiness is kept and reported when wanted.
  void watch(bool readable, bool writable);
  /// Something may be there to read, as far as is known.
  bool readable() const { return (ready_ & kRead) != 0; }
  bool watching_read() const { return (wanted_ & kRead) != 0; }

 protected:
  static constexpr std::uint8_t kRead = 1;
  static constexpr std::uint8_t kWrite = 2;
  void set_ready(std::uint8_t bits);
  /// After would_block: the next readiness will be reported.
  void clear_ready(std::uint8_t bits);

 private:
  friend class Loop;
  Loop& loop_;
  StreamObserver* observer_ = nullptr;
  Stream* prev_ready_ = nullptr;
  Stream* next_ready_ = nullptr;
  bool* gone_ = nullptr;  // set while a callback runs, which may destroy us
  bool queued_ = false;
  std::uint8_t wanted_ = 0;
  std::uint8_t ready_ = 0;
};

}  // namespace ebb::net
