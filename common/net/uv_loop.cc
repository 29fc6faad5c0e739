#include "common/net/uv_loop.h"

#include <sys/epoll.h>
#include <uv.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <mutex>
#include <optional>
#include <vector>

namespace ebb::net {

struct UvLoop::Impl {
  explicit Impl(UvLoop& owner) : self(owner) {}

  UvLoop& self;
  uv_loop_t loop{};
  uv_poll_t poll{};
  uv_prepare_t prepare{};
  uv_idle_t idle{};
  uv_timer_t timer{};
  uv_async_t async{};
  std::optional<TimePoint> timer_due;  // what `timer` is set for
  Fd epoll;
  std::array<epoll_event, 256> events{};
  int fetched = 0;  // events[next..fetched) are still to be told
  int next = 0;
  std::mutex mutex;
  std::vector<std::function<void()>> posted;

  void fetch() {
    self.set_now(Clock::now());
    fetched = epoll_wait(epoll.get(), events.data(), static_cast<int>(events.size()), 0);
    for (next = 0; next < fetched;) {
      const epoll_event event = events[static_cast<std::size_t>(next++)];
      if (event.data.ptr != nullptr) static_cast<Watched*>(event.data.ptr)->on_events(event.events);
    }
    fetched = next = 0;
    self.dispatch();
  }
  void before_wait() {
    // Posted work, timers and idle turns may have scheduled something: nothing may be left when the loop sleeps.
    const TimePoint now = Clock::now();
    self.set_now(now);
    self.dispatch();
    if (self.ready_pending()) {
      uv_idle_start(&idle, [](uv_idle_t*) {});  // a running idle handle keeps the poll from waiting
    } else {
      uv_idle_stop(&idle);
    }
    const auto due = self.timers().next_due();
    if (due == timer_due) return;
    timer_due = due;
    if (!due) {
      uv_timer_stop(&timer);
      return;
    }
    uv_update_time(&loop);
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(*due - now).count();
    uv_timer_start(
        &timer, [](uv_timer_t* t) { static_cast<Impl*>(t->data)->fire(); },
        static_cast<std::uint64_t>(std::max<std::int64_t>(wait, 0)), 0);
  }
  void fire() {
    timer_due.reset();
    self.set_now(Clock::now());
    self.timers().run(self.now());
    self.dispatch();
  }
  void run_posted() {
    self.set_now(Clock::now());
    std::vector<std::function<void()>> work;
    {
      const std::lock_guard lock(mutex);
      work.swap(posted);
    }
    for (auto& each : work) each();
    self.dispatch();
  }
};

UvLoop::UvLoop() : Loop(Clock::now()), impl_(std::make_unique<Impl>(*this)) {
  Impl& my = *impl_;
  my.epoll = Fd(epoll_create1(EPOLL_CLOEXEC));
  [[maybe_unused]] int rc = uv_loop_init(&my.loop);
  assert(rc == 0 && my.epoll);
  uv_poll_init(&my.loop, &my.poll, my.epoll.get());
  uv_prepare_init(&my.loop, &my.prepare);
  uv_idle_init(&my.loop, &my.idle);
  uv_timer_init(&my.loop, &my.timer);
  uv_async_init(&my.loop, &my.async, [](uv_async_t* a) { static_cast<Impl*>(a->data)->run_posted(); });
  my.poll.data = my.prepare.data = my.idle.data = my.timer.data = my.async.data = &my;
  uv_poll_start(&my.poll, UV_READABLE, [](uv_poll_t* p, int, int) { static_cast<Impl*>(p->data)->fetch(); });
  uv_prepare_start(&my.prepare, [](uv_prepare_t* p) { static_cast<Impl*>(p->data)->before_wait(); });
}

UvLoop::~UvLoop() {
  end_lingering();  // its streams leave the epoll set
  Impl& my = *impl_;
  for (auto* handle : {reinterpret_cast<uv_handle_t*>(&my.poll), reinterpret_cast<uv_handle_t*>(&my.prepare),
                       reinterpret_cast<uv_handle_t*>(&my.idle), reinterpret_cast<uv_handle_t*>(&my.timer),
                       reinterpret_cast<uv_handle_t*>(&my.async)}) {
    uv_close(handle, nullptr);
  }
  uv_run(&my.loop, UV_RUN_DEFAULT);
  uv_loop_close(&my.loop);
}

void UvLoop::run() { uv_run(&impl_->loop, UV_RUN_DEFAULT); }
void UvLoop::stop() { uv_stop(&impl_->loop); }
void UvLoop::run_once() { uv_run(&impl_->loop, UV_RUN_NOWAIT); }
uv_loop_s* UvLoop::raw() { return &impl_->loop; }
void UvLoop::woken() { set_now(Clock::now()); }

bool UvLoop::add(int fd, Watched& who) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = &who;
  return epoll_ctl(impl_->epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0;
}

void UvLoop::remove(int fd, Watched& who) {
  epoll_ctl(impl_->epoll.get(), EPOLL_CTL_DEL, fd, nullptr);
  for (int i = impl_->next; i < impl_->fetched; ++i) {
    auto& event = impl_->events[static_cast<std::size_t>(i)];
    if (event.data.ptr == &who) event.data.ptr = nullptr;
  }
}

void UvLoop::post(std::function<void()> work) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->posted.push_back(std::move(work));
  }
  uv_async_send(&impl_->async);
}

}  // namespace ebb::net
