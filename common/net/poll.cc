#include "common/net/poll.h"

#include <uv.h>

namespace ebb::net {

struct Poll::Block {
  uv_poll_t poll{};
  UvLoop* loop = nullptr;
  Ready ready;  // emptied by ~Poll: nothing is told afterwards
};

std::unique_ptr<Poll> Poll::make(UvLoop& loop, int fd, Ready ready) {
  auto block = std::make_unique<Block>();
  if (uv_poll_init(loop.raw(), &block->poll, fd) != 0) return nullptr;
  block->loop = &loop;
  block->ready = std::move(ready);
  return std::unique_ptr<Poll>(new Poll(block.release()));
}

Poll::~Poll() {
  // Out of the kernel's set at once, so the descriptor may be closed; the memory is libuv's until its callback.
  uv_poll_stop(&block_->poll);
  block_->ready = nullptr;
  uv_close(reinterpret_cast<uv_handle_t*>(&block_->poll),
           [](uv_handle_t* handle) { delete reinterpret_cast<Block*>(handle); });
}

void Poll::watch(bool readable, bool writable) {
  const int events = (readable ? UV_READABLE : 0) | (writable ? UV_WRITABLE : 0);
  if (events == 0) {
    uv_poll_stop(&block_->poll);
    return;
  }
  uv_poll_start(&block_->poll, events, [](uv_poll_t* handle, int status, int what) {
    auto& block = *reinterpret_cast<Block*>(handle);
    if (!block.ready) return;
    block.loop->woken();
    const Ready ready = block.ready;  // it may destroy the Poll, and this with it
    ready(status != 0 || (what & UV_READABLE) != 0, status != 0 || (what & UV_WRITABLE) != 0);
  });
}

}  // namespace ebb::net
