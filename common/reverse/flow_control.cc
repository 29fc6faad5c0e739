#include "common/reverse/flow_control.h"

#include <algorithm>
#include <utility>

namespace ebb::reverse {

void FlowControl::opened(StreamId stream) {
  if (!agreed_) return;
  streams_.erase(stream.value);  // a peer that opens an id twice begins anew
  // More than was announced is given with the first bytes that are consumed: most streams never need it.
  streams_.emplace(stream.value, Stream{SendCredit(peers_window_), ReceiveWindow(budget_)});
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
