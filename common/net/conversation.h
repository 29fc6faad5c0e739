// A Stream as a handshake coroutine uses it: read more, write, be aborted. What a handshake leaves unread travels on
// with the stream.
#pragma once

#include <cassert>
#include <coroutine>
#include <memory>
#include <optional>
#include <string>

#include "common/base/result.h"
#include "common/net/stream.h"
#include "common/net/task.h"

namespace ebb::net {

class Conversation final : private StreamObserver {
 public:
  class ReadMore;
  class Write;
  struct Rest {
    std::unique_ptr<Stream> stream;  // watched by nobody
    Bytes unread;
  };

  /// `max_input_bytes`: how much may lie unconsumed; nothing is allocated while nothing is read.
  Conversation(std::unique_ptr<Stream> stream, std::size_t max_input_bytes);
  Conversation(const Conversation&) = delete;
  Conversation& operator=(const Conversation&) = delete;
  ~Conversation();

  /// Read and not yet consumed.
  ConstSpan input() const { return std::span(buffer_).subspan(begin_); }
  void consume(std::size_t bytes);

  /// co_await: Result<>, once at least one more byte is in input(). Errors: closed (end of stream, reset), overload
  /// (max_input_bytes are there already), or what abort() said. One call at a time.
  ReadMore read_more();
  /// co_await: Result<>, once all is written. `bytes` must stay valid until then. Errors as above.
  Write write(ConstSpan bytes);
  /// Ends the pending call, and every later one, with `why`. The stream is left as it is.
  void abort(Error why);

  Stream& stream() { return *stream_; }
  /// Hands the stream and the unread bytes on. No call may be pending; nothing but destruction works afterwards.
  Rest release();

 private:
  class Waiting;
  void on_readable() override;
  void on_writable() override;
  void resume(Result<> outcome);
  std::optional<Result<>> try_read();
  std::optional<Result<>> try_write(ConstSpan& rest);

  std::unique_ptr<Stream> stream_;
  const std::size_t max_input_bytes_;
  Bytes buffer_;
  std::size_t begin_ = 0;
  std::optional<Error> aborted_;
  Waiting* waiting_ = nullptr;
};

class Conversation::Waiting {
 public:
  explicit Waiting(Conversation& conversation) : conversation_(conversation) {}
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  ~Waiting();
  Result<> await_resume() {
    assert(outcome_.has_value());
    return std::move(*outcome_);
  }

 protected:
  friend class Conversation;
  void suspend(std::coroutine_handle<> waiter);
  Conversation& conversation_;
  std::coroutine_handle<> waiter_;
  ConstSpan to_write_;
  std::optional<Result<>> outcome_;
};

class Conversation::ReadMore : public Waiting {
 public:
  using Waiting::Waiting;
  bool await_ready();
  void await_suspend(std::coroutine_handle<> waiter);
};

class Conversation::Write : public Waiting {
 public:
  Write(Conversation& conversation, ConstSpan bytes) : Waiting(conversation) { to_write_ = bytes; }
  bool await_ready();
  void await_suspend(std::coroutine_handle<> waiter);
};

/// While it lives, the conversation has this long: then it is aborted with Errc::timeout, "WHAT took longer than 4000
/// ms".
class Deadline {
 public:
  Deadline(Conversation& conversation, Duration limit, std::string_view what);

 private:
  Conversation& conversation_;
  Duration limit_;
  std::string_view what_;
  Timer timer_;
};

/// Joins a sans-IO decoder and a conversation: reads until `decode` (ConstSpan -> Decoded<Step<Message>>) has a whole
/// message.
template <class Message, class Decode>
Task<Result<Message>> read_message(Conversation& conversation, Decode decode) {
  for (;;) {
    auto step = decode(conversation.input());
    if (!step) co_return std::unexpected(explain(step.error()));
    conversation.consume(step->used);
    if (step->message) co_return std::move(*step->message);
    auto more = co_await conversation.read_more();
    if (!more) co_return std::unexpected(std::move(more.error()));
  }
}

}  // namespace ebb::net
