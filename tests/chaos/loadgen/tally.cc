#include "tests/chaos/loadgen/tally.h"

#include <algorithm>
#include <bit>

namespace ebb::loadgen {

namespace {

// Quarter octaves: the two bits below the highest one, so a bucket is at most 25 % wide.
std::size_t bucket_of(std::int64_t us) {
  const auto value = static_cast<std::uint64_t>(std::max<std::int64_t>(us, 4));
  const int top = std::bit_width(value) - 1;
  return static_cast<std::size_t>(top) * 4 + ((value >> (top - 2)) & 3);
}

std::int64_t upper_edge(std::size_t bucket) {
  return static_cast<std::int64_t>((4 + bucket % 4 + 1) << (bucket / 4) >> 2);
}

}  // namespace

const char* name_of(Fault fault) {
  switch (fault) {
    case Fault::connect: return "connect";
    case Fault::reset: return "reset";
    case Fault::early_end: return "early_end";
    case Fault::timeout: return "timeout";
    case Fault::wrong: return "wrong_echo";
    case Fault::ours: return "ours";
    case Fault::count_: break;
  }
  return "";
}

void Tally::ok(std::int64_t took_us) {
  ++ok_;
  ++took_[std::min(bucket_of(took_us), kBuckets - 1)];
  slowest_us_ = std::max(slowest_us_, took_us);
}

void Tally::fail(Failure failure) {
  ++failed_;
  ++by_kind_[static_cast<std::size_t>(failure.fault)];
  if (first_.size() < kKept) first_.push_back(std::move(failure));
}

std::int64_t Tally::percentile_us(int percent) const {
  std::uint64_t left = ok_ * static_cast<std::uint64_t>(percent) / 100;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    if (took_[i] > left) return std::min(upper_edge(i), slowest_us_);
    left -= took_[i];
  }
  return slowest_us_;
}

void Tally::write(JsonWriter& json) const {
  const auto number = [&json](const char* key, auto value) { json.key(key).number(static_cast<std::int64_t>(value)); };
  number("ok", ok_);
  number("failed", failed_);
  for (const auto* counts : {&by_kind_, &bad_ends_}) {
    json.key(counts == &by_kind_ ? "by_kind" : "bad_ends").object();
    for (std::size_t i = 0; i < counts->size(); ++i) {
      if ((*counts)[i] > 0) number(name_of(Fault{static_cast<std::uint8_t>(i)}), (*counts)[i]);
    }
    json.end();
  }
  number("slowest_ms", slowest_us_ / 1000);
  number("p50_us", percentile_us(50));
  number("p99_us", percentile_us(99));
  json.key("failures").array();
  for (const Failure& one : first_) {
    json.object();
    number("sequence", one.sequence);
    json.key("kind").text(name_of(one.fault));
    number("started_us", one.started_us);
    number("took_us", one.ended_us - one.started_us);
    json.key("source").text(one.source).key("target").text(one.target).key("detail").text(one.detail).end();
  }
  json.end();
}

}  // namespace ebb::loadgen
