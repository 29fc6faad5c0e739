// The credit of all streams of one tunnel between our own nodes, and the Window messages it owes. Sans-IO. What a
// window is and may cost: credit.h. Source: PROTOCOL.md, credit.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "common/base/strong_id.h"
#include "common/reverse/control.h"
#include "common/reverse/credit.h"

namespace ebb::reverse {

class FlowControl {
 public:
  static constexpr std::size_t kMaxWindows = 100;  // of one message: each takes 15 bytes at most, a message 2048

  explicit FlowControl(std::uint64_t budget) : budget_(budget) {}
  FlowControl(const FlowControl&) = delete;
  FlowControl& operator=(const FlowControl&) = delete;

  /// For our hello.
  std::uint32_t announced() const { return budget_.announced(); }
  /// The peer may turn out to be ours: streams opened from here on are counted, and have credit when it has. `limited`:
  /// it is ours, but its hello has not come; until then they may send the least that it will announce.
  void expect(bool limited);
  /// Both ends have the feature: all TCP streams have credit. Returns those that were counted until now.
  std::vector<StreamId> agree(std::uint32_t peers_window);
  /// There will be no credit on this tunnel. Returns those that were counted until now.
  std::vector<StreamId> forgo();
  WindowBudget& budget() { return budget_; }
  const WindowBudget& budget() const { return budget_; }

  /// A TCP stream begins, by either end. Nothing happens where no credit is expected.
  void opened(StreamId stream);
  /// Its id is forgotten. Unknown ones are ignored.
  void closed(StreamId stream) { streams_.erase(stream.value); }
  /// What may be sent on it; kUnlimited without credit.
  std::uint64_t left(StreamId stream) const;
  void spent(StreamId stream, std::uint64_t bytes);
  /// A Window came. True: the stream had no credit before. Unknown streams are ignored.
  bool add(StreamId stream, std::uint64_t bytes);
  /// The peer is held to its credit on it, and has used no more.
  bool enforced(StreamId stream) const;
  /// Data came. False: beyond its credit, the stream has to be ended.
  bool received(StreamId stream, std::uint64_t bytes);
  void consumed(StreamId stream, std::uint64_t bytes, TimePoint now);
  /// The peer sends no more on it.
  void finished(StreamId stream);

  bool owes() const { return !owed_.empty(); }
  /// The windows of one message; call again while owes().
  std::vector<Window> take();

  static constexpr std::uint64_t kUnlimited = SendCredit::kUnlimited;

 private:
  struct Stream {
    SendCredit send;
    ReceiveWindow receive;
    std::uint64_t owed = 0;  // credit not yet told
  };
  void owe(StreamId stream, Stream& to, std::uint64_t bytes);

  WindowBudget budget_;
  enum class Phase : std::uint8_t { none, expected, agreed };
  Phase phase_ = Phase::none;
  bool limited_ = false;  // while expected
  std::uint32_t peers_window_ = 0;
  std::unordered_map<std::uint16_t, Stream> streams_;
  std::vector<StreamId> owed_;  // some may have gone
};

}  // namespace ebb::reverse
