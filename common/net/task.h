// A coroutine that its owner can cancel by destroying it. Handshakes are written with it (style: errors are values).
#pragma once

#include <cassert>
#include <coroutine>
#include <exception>
#include <optional>
#include <utility>

namespace ebb::net {

/// Runs nothing until start() or co_await. Destroying a suspended task destroys its frame, and the frames of what it
/// waits for: awaiters take themselves out in their destructors. A running task must not be destroyed: whoever ends it
/// from within defers that.
///
/// g++ 12 miscompiles a braced aggregate, a capturing lambda or a `switch` around co_await: write
/// `auto x = co_await f(named);`.
template <class T>
class [[nodiscard]] Task {
 public:
  struct promise_type;
  using Handle = std::coroutine_handle<promise_type>;

  Task(Task&& other) noexcept : self_(std::exchange(other.self_, {})) {}
  Task& operator=(Task&& other) noexcept {
    std::swap(self_, other.self_);
    return *this;
  }
  ~Task() {
    if (self_) self_.destroy();
  }

  void start() { self_.resume(); }
  bool done() const { return self_.done(); }
  /// What it returned; once, after done().
  T take() {
    auto& value = self_.promise().value;
    assert(value.has_value());
    return std::move(*value);
  }

  // Runs the child on our stack and suspends only if it really waits. Symmetric transfer here would be a plain call in
  // g++ 12 below -O2 and under ASan: a loop over ready children overflows the stack.
  bool await_ready() {
    self_.resume();
    return self_.done();
  }
  void await_suspend(std::coroutine_handle<> waiter) noexcept { self_.promise().waiter = waiter; }
  T await_resume() { return take(); }

 private:
  explicit Task(Handle self) : self_(self) {}
  Handle self_;
};

template <class T>
struct Task<T>::promise_type {
  struct ResumeWaiter : std::suspend_always {
    std::coroutine_handle<> await_suspend(Handle done) noexcept { return done.promise().waiter; }
  };

  std::coroutine_handle<> waiter = std::noop_coroutine();
  std::optional<T> value;

  Task get_return_object() { return Task{Handle::from_promise(*this)}; }
  std::suspend_always initial_suspend() noexcept { return {}; }
  auto final_suspend() noexcept { return ResumeWaiter{}; }
  template <class U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  void unhandled_exception() noexcept { std::terminate(); }
};

}  // namespace ebb::net
