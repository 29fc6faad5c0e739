#include "common/net/linger.h"

#include <utility>

namespace ebb::net {

class Lingering::One final : public StreamObserver {
 public:
  One(Lingering& home, std::unique_ptr<Stream> stream)
      : home_(home), stream_(std::move(stream)), since_(stream_->loop().now()) {
    stream_->observe(this);
    stream_->shutdown_write();
    stream_->watch(true, false);
    left_ = stream_->undelivered();
    stream_->loop().arm(limit_, kLimit);
  }
  void on_readable() override {
    const IoResult result = stream_->read(stream_->loop().read_buffer());
    if (result.kind == IoResult::Kind::end || result.kind == IoResult::Kind::error) drop();
  }
  void on_writable() override {}

  std::list<std::unique_ptr<One>>::iterator place;

 private:
  void time_is_over() {
    const std::size_t left = stream_->undelivered();
    const bool progress = left > 0 && left < std::exchange(left_, left);
    if (!progress || stream_->loop().now() - since_ >= kLongest) return drop();
    stream_->loop().arm(limit_, kLimit);
  }
  void drop() { home_.streams_.erase(place); }  // destroys us
  Lingering& home_;
  std::unique_ptr<Stream> stream_;
  TimePoint since_;
  std::size_t left_ = 0;  // bytes the kernel had when the timer was set
  Timer limit_{[](void* self) { static_cast<One*>(self)->time_is_over(); }, this};
};

Lingering::Lingering() = default;
Lingering::~Lingering() = default;

void Lingering::add(std::unique_ptr<Stream> stream) {
  if (streams_.size() >= kMax) return;  // closed by its destructor
  streams_.push_back(std::make_unique<One>(*this, std::move(stream)));
  streams_.back()->place = std::prev(streams_.end());
}

void linger_close(std::unique_ptr<Stream> stream) {
  Loop& loop = stream->loop();
  loop.lingering().add(std::move(stream));
}

}  // namespace ebb::net
