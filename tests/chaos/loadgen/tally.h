// What became of the connections: counts, failures in full, how long answers took. Bounded.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "common/base/json_writer.h"

namespace ebb::loadgen {

/// "Lost" (spec/processes.md, top): opened a connection, got no answer. `ours`: no socket could be made here.
enum class Fault : std::uint8_t { connect, reset, early_end, timeout, wrong, ours, count_ };

const char* name_of(Fault fault);

struct Failure {
  std::uint64_t sequence = 0;
  Fault fault{};
  std::int64_t started_us = 0;  // CLOCK_MONOTONIC
  std::int64_t ended_us = 0;
  std::string source;  // our address
  std::string target;
  std::string detail;  // errno's text, or what came instead
};

class Tally {
 public:
  void ok(std::int64_t took_us);
  void fail(Failure failure);
  /// After the answer the stream did not end as it should: nothing was lost, but somebody cut or forgot it.
  void bad_end(Fault fault) { ++bad_ends_[static_cast<std::size_t>(fault)]; }

  std::uint64_t good() const { return ok_; }
  std::uint64_t failed() const { return failed_; }
  /// "ok", "failed", "by_kind", "bad_ends", "failures", "slowest_ms", "p50_ms", "p99_ms"; goes into an open object.
  void write(JsonWriter& json) const;

 private:
  static constexpr std::size_t kKept = 5'000;      // failures told in full
  static constexpr std::size_t kBuckets = 4 * 40;  // quarter octaves of microseconds

  std::int64_t percentile_us(int percent) const;

  std::uint64_t ok_ = 0;
  std::uint64_t failed_ = 0;
  std::array<std::uint64_t, static_cast<std::size_t>(Fault::count_)> by_kind_{};
  std::array<std::uint64_t, static_cast<std::size_t>(Fault::count_)> bad_ends_{};
  std::array<std::uint64_t, kBuckets> took_{};
  std::int64_t slowest_us_ = 0;
  std::vector<Failure> first_;
};

}  // namespace ebb::loadgen
