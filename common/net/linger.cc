#include "common/net/linger.h"

namespace ebb::net {

class Lingering::One final : public StreamObserver {
 public:
  One(Lingering& home, std::unique_ptr<Stream> stream) : home_(home), stream_(std::move(stream)) {
    stream_->observe(this);
    stream_->shutdown_write();
    stream_->watch(true, false);
    stream_->loop().arm(limit_, kLimit);
  }
  void on_readable() override {
    const IoResult result = stream_->read(stream_->loop().read_buffer());
    if (result.kind == IoResult::Kind::end || result.kind == IoResult::Kind::error) drop();
  }
  void on_writable() override {}

  std::list<std::unique_ptr<One>>::iterator place;

 private:
  void drop() { home_.streams_.erase(place); }  // destroys us
  Lingering& home_;
  std::unique_ptr<Stream> stream_;
  Timer limit_{[](void* self) { static_cast<One*>(self)->drop(); }, this};
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
