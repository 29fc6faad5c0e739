#include "common/reverse/flow_control.h"

#include <algorithm>
#include <utility>

namespace ebb::reverse {

void FlowControl::expect(bool limited) {
  phase_ = Phase::expected;
  limited_ = limited;
}

std::vector<StreamId> FlowControl::agree(std::uint32_t peers_window) {
  std::vector<StreamId> early;
  if (phase_ == Phase::agreed) return early;
  phase_ = Phase::agreed;
  peers_window_ = peers_window;
  early.reserve(streams_.size());
  for (auto& [id, stream] : streams_) {
    stream.send.begin(peers_window);
    owe(StreamId{id}, stream, stream.receive.enforce());
    early.push_back(StreamId{id});
  }
  return early;
}

std::vector<StreamId> FlowControl::forgo() {
  std::vector<StreamId> early;
  phase_ = Phase::none;
  for (const auto& [id, stream] : streams_) early.push_back(StreamId{id});
  streams_.clear();
  owed_.clear();
  return early;
}

void FlowControl::opened(StreamId stream) {
  if (phase_ == Phase::none) return;
  streams_.erase(stream.value);  // a peer that opens an id twice begins anew
  const bool agreed = phase_ == Phase::agreed;
  // More than was announced is given with the first bytes that are consumed: most streams never need it.
  streams_.emplace(stream.value, Stream{agreed ? SendCredit(peers_window_) : SendCredit::early(limited_),
                                        ReceiveWindow(budget_, agreed)});
}

bool FlowControl::enforced(StreamId stream) const {
  const auto found = streams_.find(stream.value);
  return found != streams_.end() && found->second.receive.covered();
}

std::uint64_t FlowControl::left(StreamId stream) const {
  const auto found = streams_.find(stream.value);
  return found == streams_.end() ? kUnlimited : found->second.send.left();
}

void FlowControl::spent(StreamId stream, std::uint64_t bytes) {
  const auto found = streams_.find(stream.value);
  if (found != streams_.end()) found->second.send.spend(bytes);
}

bool FlowControl::add(StreamId stream, std::uint64_t bytes) {
  const auto found = streams_.find(stream.value);
  return found != streams_.end() && found->second.send.add(bytes);
}

bool FlowControl::received(StreamId stream, std::uint64_t bytes) {
  const auto found = streams_.find(stream.value);
  return found == streams_.end() || found->second.receive.received(bytes);
}

void FlowControl::consumed(StreamId stream, std::uint64_t bytes, TimePoint now) {
  const auto found = streams_.find(stream.value);
  if (found != streams_.end()) owe(stream, found->second, found->second.receive.consumed(bytes, now));
}

void FlowControl::finished(StreamId stream) {
  const auto found = streams_.find(stream.value);
  if (found != streams_.end()) found->second.receive.finish();
}

void FlowControl::owe(StreamId stream, Stream& to, std::uint64_t bytes) {
  if (bytes == 0) return;
  if (to.owed == 0) owed_.push_back(stream);
  to.owed += bytes;
}

std::vector<Window> FlowControl::take() {
  std::vector<Window> out;
  const std::size_t count = std::min(owed_.size(), kMaxWindows);
  for (std::size_t i = 0; i < count; ++i) {
    const auto found = streams_.find(owed_[i].value);
    if (found == streams_.end() || found->second.owed == 0) continue;
    out.push_back({owed_[i].value, std::exchange(found->second.owed, 0)});
  }
  owed_.erase(owed_.begin(), owed_.begin() + static_cast<std::ptrdiff_t>(count));
  return out;
}

}  // namespace ebb::reverse
