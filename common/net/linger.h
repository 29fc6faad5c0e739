// Closing without destroying our own last answer. Source: spec/processes.md 13.8.
#pragma once

#include <list>
#include <memory>

#include "common/net/stream.h"

namespace ebb::net {

/// Ends our direction, reads and discards until the peer ends his or 2 s have passed, then closes. close() alone, with
/// bytes unread, would send a reset that may overtake what we wrote. Everything to be sent must have been written.
/// While the kernel still has some of it and the peer keeps taking it, two more seconds are given, again and again, 5
/// min in all: whatever he sends to a closed socket would be answered by a reset, and cost him the rest. The loop owns
/// the stream meanwhile; beyond Lingering::kMax of them it is closed at once.
void linger_close(std::unique_ptr<Stream> stream);

/// The streams of one loop that are being closed.
class Lingering {
 public:
  static constexpr std::size_t kMax = 1024;
  static constexpr Duration kLimit = std::chrono::seconds(2);
  static constexpr Duration kLongest = std::chrono::minutes(5);  // of one whose peer takes what the kernel has, slowly

  Lingering();
  Lingering(const Lingering&) = delete;
  Lingering& operator=(const Lingering&) = delete;
  ~Lingering();
  void add(std::unique_ptr<Stream> stream);
  std::size_t size() const { return streams_.size(); }

 private:
  class One;
  std::list<std::unique_ptr<One>> streams_;
};

}  // namespace ebb::net
