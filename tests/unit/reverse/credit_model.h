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
    enum class Age : std::uint8_t { agreed, limited, unlimited };  // the last two: older than the hello of the receiver
    Stream(reverse::WindowBudget& budget, bool ask, Age age)
        : credit(age == Age::agreed ? reverse::SendCredit(budget.announced())
                                    : reverse::SendCredit::early(age == Age::limited)),
          window(budget, age == Age::agreed),
          began(age == Age::agreed) {
      if (ask && began) grant(window.opening());
    }
    void grant(std::uint64_t add) {
      if (add > 0) grants.push_back(add);
    }
    reverse::SendCredit credit;
    reverse::ReceiveWindow window;
    std::deque<std::uint64_t> data, grants;  // on the wire; kHello among them
    bool finished = false;
    bool began;          // at the sender
    bool asked = false;  // a hello is under way
  };

  void step(std::uint8_t what, std::uint8_t which, std::uint16_t much) {
    const unsigned kind = what % 16;
    if (kind == 0 || streams_.empty()) return open(much % 2 == 0, typename Stream::Age(much / 2 % 3));
    Stream& s = *streams_[which % streams_.size()];
    const std::uint64_t bytes = std::uint64_t{much} << (what >> 4);
    if (kind <= 4) send(s, bytes);
    if (kind >= 5 && kind <= 8) arrive(s);
    if (kind >= 9 && kind <= 11) take(s, bytes);
    if (kind == 12) credited(s);
    if (kind == 13) now_ += std::chrono::microseconds(std::uint64_t{much} * 4);
    if (kind == 14 && much % 3 == 0) return hello(s);
    if (kind == 14) tune(which, much);
    if (kind == 15) end(s, much % 2 == 0);
  }

  void open(bool ask, Stream::Age age) {
    if (streams_.size() < most_streams_) streams_.push_back(std::make_unique<Stream>(budget_, ask, age));
  }
  /// A sender without limits obeys from its own hello on, which reaches the receiver behind its data. One that sends
  /// the least window hears the receiver's hello, who holds him to it from there on.
  void hello(Stream& s) {
    if (s.began || s.asked) return;
    s.asked = true;
    if (s.credit.left() == reverse::SendCredit::kUnlimited) {
      s.credit.begin(budget_.announced());
      s.began = true;
      s.data.push_back(kHello);
    } else {
      s.grants.push_back(kHello);
      s.grant(s.window.enforce());
    }
  }
  void send(Stream& s, std::uint64_t bytes) {
    bytes = std::min(bytes, s.credit.left());
    if (bytes == 0 || s.finished) return;
    s.credit.spend(bytes);
    s.data.push_back(bytes);
  }
  void arrive(Stream& s) {
    if (s.data.empty()) return;
    if (s.data.front() == kHello) {
      s.grant(s.window.enforce());
    } else {
      assert(s.window.received(s.data.front()) && "within its credit");
    }
    s.data.pop_front();
    beyond_ = beyond_ || s.window.beyond() > 0;
    finish(s);
  }
  void take(Stream& s, std::uint64_t bytes) { s.grant(s.window.consumed(std::min(bytes, s.window.queued()), now_)); }
  void credited(Stream& s) {
    if (s.grants.empty()) return;
    if (s.grants.front() == kHello) {
      s.credit.begin(budget_.announced());
      s.began = true;
    } else {
      s.credit.add(s.grants.front());
    }
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
      std::uint64_t there = s->credit.left() - s->credit.debt();
      bool hello = !s->began;
      for (const auto bytes : s->data) bytes == kHello ? void(hello = true) : void(there += bytes);
      for (const auto bytes : s->grants) bytes == kHello ? void(hello = true) : void(there += bytes);
      assert(hello || s->finished || s->window.outstanding() - s->window.beyond() == there);
      charges += std::max<std::uint64_t>(s->window.holds(), budget_.announced());
    }
    assert(charges == budget_.charged());
    assert(charges <= budget_.promise() || beyond_);
    assert(budget_.streams() == streams_.size());
  }

  /// Nobody who has something to send may be left without credit, and with less than half of the least window.
  void drain() {
    for (auto& s : streams_) {
      hello(*s);
      while (!s->data.empty()) arrive(*s);
      take(*s, s->window.queued());
      while (!s->grants.empty()) credited(*s);
      assert(s->finished || s->credit.left() >= reverse::kMinWindow / 2);
      check();
    }
  }

  static constexpr std::uint64_t kHello = ~std::uint64_t{0};
  reverse::WindowBudget budget_;
  bool beyond_ = false;  // somebody sent what nobody had given
  std::size_t most_streams_;
  std::vector<std::unique_ptr<Stream>> streams_;
  TimePoint now_{std::chrono::seconds(1)};
};

}  // namespace ebb::test
