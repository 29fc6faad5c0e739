// Senders, receivers and consumers of one tunnel joined by a wire that keeps order, moved one step at a time: whatever
// happens, nobody overruns, nobody is stuck, and the memory rule holds. Steps come from a byte string, so that random
// walks and the fuzzer share it.
#pragma once

#include <algorithm>
#include <cassert>
#include <deque>
#include <memory>
#include <vector>

#include "common/base/bytes.h"
#include "common/reverse/credit.h"

namespace ebb::test {

class CreditModel {
 public:
  CreditModel(std::uint64_t budget, std::size_t most_streams) : budget_(budget), most_streams_(most_streams) {}

  /// Runs all steps, four bytes each, then lets everything arrive and be taken.
  void run(ConstSpan steps) {
    for (; steps.size() >= 4; steps = steps.subspan(4)) {
      step(steps[0], steps[1], load_be16(steps.subspan(2)));
      check();
    }
    drain();
  }
  const reverse::WindowBudget& budget() const { return budget_; }

 private:
  struct Stream {
    Stream(reverse::WindowBudget& budget, bool ask) : credit(budget.announced()), window(budget) {
      if (ask) grant(window.opening());
    }
    void grant(std::uint64_t add) {
      if (add > 0) grants.push_back(add);
    }
    reverse::SendCredit credit;
    reverse::ReceiveWindow window;
    std::deque<std::uint64_t> data, grants;  // on the wire
    bool finished = false;
  };

  void step(std::uint8_t what, std::uint8_t which, std::uint16_t much) {
    const unsigned kind = what % 16;
    if (kind == 0 || streams_.empty()) return open(much % 2 == 0);
    Stream& s = *streams_[which % streams_.size()];
    const std::uint64_t bytes = std::uint64_t{much} << (what >> 4);
    if (kind <= 4) send(s, bytes);
    if (kind >= 5 && kind <= 8) arrive(s);
    if (kind >= 9 && kind <= 11) take(s, bytes);
    if (kind == 12) credited(s);
    if (kind == 13) now_ += std::chrono::microseconds(std::uint64_t{much} * 4);
    if (kind == 14) tune(which, much);
    if (kind == 15) end(s, much % 2 == 0);
  }

  void open(bool ask) {
    if (streams_.size() < most_streams_) streams_.push_back(std::make_unique<Stream>(budget_, ask));
  }
  void send(Stream& s, std::uint64_t bytes) {
    bytes = std::min(bytes, s.credit.left());
    if (bytes == 0 || s.finished) return;
    s.credit.spend(bytes);
    s.data.push_back(bytes);
  }
  void arrive(Stream& s) {
    if (s.data.empty()) return;
    assert(s.window.received(s.data.front()) && "within its credit");
    s.data.pop_front();
    finish(s);
  }
  void take(Stream& s, std::uint64_t bytes) { s.grant(s.window.consumed(std::min(bytes, s.window.queued()), now_)); }
  void credited(Stream& s) {
    if (s.grants.empty()) return;
    s.credit.add(s.grants.front());
    s.grants.pop_front();
  }
  void tune(std::uint8_t which, std::uint16_t much) {
    if (which % 4 == 0) budget_.set_pressed(much % 2 == 0);
    if (which % 4 != 0) budget_.set_rtt(std::chrono::microseconds(std::uint64_t{much} * 8));
  }
  void end(Stream& s, bool both) {
    if (both) return (void)std::erase_if(streams_, [&s](const auto& other) { return other.get() == &s; });
    s.finished = true;
    finish(s);
  }
  static void finish(Stream& s) {
    if (s.finished && s.data.empty()) s.window.finish();
  }

  void check() const {
    std::uint64_t charges = 0;
    for (const auto& s : streams_) {
      std::uint64_t there = s->credit.left();
      for (const auto bytes : s->data) there += bytes;
      for (const auto bytes : s->grants) there += bytes;
      assert(s->window.outstanding() == there || s->finished);
      charges += std::max<std::uint64_t>(s->window.holds(), budget_.announced());
    }
    assert(charges == budget_.charged());
    assert(charges <= budget_.promise());
    assert(budget_.streams() == streams_.size());
  }

  /// Nobody who has something to send may be left without credit, and with less than half of the least window.
  void drain() {
    for (auto& s : streams_) {
      while (!s->data.empty()) arrive(*s);
      take(*s, s->window.queued());
      while (!s->grants.empty()) credited(*s);
      assert(s->finished || s->credit.left() >= reverse::kMinWindow / 2);
      check();
    }
  }

  reverse::WindowBudget budget_;
  std::size_t most_streams_;
  std::vector<std::unique_ptr<Stream>> streams_;
  TimePoint now_{std::chrono::seconds(1)};
};

}  // namespace ebb::test
