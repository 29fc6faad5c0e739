// A proxy that passes the first bytes of every connection on one by one: what a handshake's reader must bear.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "tests/chaos/loadgen/poller.h"
#include "tests/chaos/loadgen/sockets.h"

namespace ebb::loadgen {

class Chopper final : public Watcher {
 public:
  /// Listens on `port`, dials `target`; the first `singles` bytes towards it go one per tick().
  Chopper(Poller& poller, std::uint16_t port, Target target, std::size_t singles);
  Chopper(const Chopper&) = delete;
  Chopper& operator=(const Chopper&) = delete;
  ~Chopper();

  void on_event(std::uint32_t events) override;
  void tick();

 private:
  class Pair;

  Poller& poller_;
  Fd listener_;
  Target target_;
  std::size_t singles_;
  std::uint64_t accepted_ = 0;
  std::unordered_map<Pair*, std::unique_ptr<Pair>> pairs_;
};

}  // namespace ebb::loadgen
