#include "worker/flow/flow.h"

#include <algorithm>
#include <utility>

namespace ebb::flow {

Flow::Flow(Flows& home, std::unique_ptr<DatagramEnd> client, std::unique_ptr<DatagramEnd> origin)
    : home_(home), client_(std::move(client)), origin_(std::move(origin)), last_(home.loop().now()) {
  client_->flow_ = this;
  origin_->flow_ = this;
}

Flow::~Flow() = default;

void Flow::on_datagram(DatagramEnd& from, ConstSpan datagram, const Target* address) {
  if (finished_) return;
  home_.touch(*this);
  ++datagrams_;
  ++home_.counters_.datagrams;
  DatagramEnd& to = &from == client_.get() ? *origin_ : *client_;
  if (!to.send(datagram, address)) ++home_.counters_.dropped;
}

void Flow::on_end(DatagramEnd&) { end(); }

void Flow::added_socket() {
  if (finished_) return;
  home_.touch(*this);  // not the one that leaves
  home_.make_room(this);
  if (finished_) return;  // the end of the one that left ended the tunnel of both
  ++further_;
  ++home_.further_;
}

void Flow::end() {
  if (std::exchange(finished_, true)) return;
  client_->close();
  origin_->close();
  home_.bury(*this);
}

std::optional<std::uint64_t> DatagramEnd::may_say(Sparingly FlowLines::* kind) const {
  if (flow_ == nullptr) return std::nullopt;
  return (flow_->home_.lines_.*kind).say(flow_->home_.loop().now());
}

Flows::Flows(net::Loop& loop, std::size_t most)
    : loop_(loop),
      most_(std::max<std::size_t>(most, 1)),
      timer_([](void* self) { static_cast<Flows*>(self)->end_idle(); }, this),
      sweep_([](void* self) { static_cast<Flows*>(self)->sweep(); }, this) {}

Flows::~Flows() {
  end_all();
  sweep();
}

void Flows::set_idle(Duration idle) {
  idle_ = idle;
  if (oldest_ != nullptr) end_idle();
}

Flow& Flows::start(std::unique_ptr<DatagramEnd> client, std::unique_ptr<DatagramEnd> origin) {
  make_room(nullptr);
  auto* flow = new Flow(*this, std::move(client), std::move(origin));
  link_newest(*flow);
  ++size_;
  ++counters_.started;
  if (!timer_.armed()) loop_.arm(timer_, idle_);
  return *flow;
}

/// For one descriptor more.
void Flows::make_room(const Flow* stays) {
  while (descriptors() >= most_ && oldest_ != nullptr && oldest_ != stays) {
    ++counters_.displaced;
    oldest_->end();
  }
}

void Flows::end_all() {
  while (newest_ != nullptr) newest_->end();
}

void Flows::link_newest(Flow& flow) {
  flow.newer_ = nullptr;
  flow.older_ = newest_;
  (newest_ != nullptr ? newest_->newer_ : oldest_) = &flow;
  newest_ = &flow;
}

void Flows::describe(JsonWriter& out) const {
  const std::pair<std::string_view, std::uint64_t> figures[] = {
      {"live", size_},
      {"started", counters_.started},
      {"datagrams", counters_.datagrams},
      {"dropped", counters_.dropped},
      {"displaced", counters_.displaced},
      {"idle", counters_.idle},
  };
  out.object();
  for (const auto& [name, value] : figures) out.key(name).number(static_cast<std::int64_t>(value));
  out.end();
}

void Flows::unlink(Flow& flow) {
  (flow.newer_ != nullptr ? flow.newer_->older_ : newest_) = flow.older_;
  (flow.older_ != nullptr ? flow.older_->newer_ : oldest_) = flow.newer_;
}

void Flows::touch(Flow& flow) {
  flow.last_ = loop_.now();
  if (newest_ == &flow) return;
  unlink(flow);
  link_newest(flow);
}

void Flows::bury(Flow& flow) {
  unlink(flow);
  --size_;
  further_ -= flow.further_;
  flow.older_ = std::exchange(dead_, &flow);
  loop_.defer(sweep_);  // an end may be in the middle of telling us something
}

/// One timer for all: it looks at the oldest, and again when the next could be due. It never fires more often than a
/// fraction of `idle_`, however many flows there are.
void Flows::end_idle() {
  const TimePoint now = loop_.now();
  while (oldest_ != nullptr && now - oldest_->last_ >= idle_) {
    ++counters_.idle;
    oldest_->end();
  }
  if (oldest_ == nullptr) return timer_.disarm();
  loop_.arm(timer_, std::max<Duration>(idle_ - (now - oldest_->last_), idle_ / 64));
}

void Flows::sweep() {
  while (dead_ != nullptr) delete std::exchange(dead_, dead_->older_);
}

}  // namespace ebb::flow
