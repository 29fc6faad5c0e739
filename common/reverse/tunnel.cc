#include "common/reverse/tunnel.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace ebb::reverse {

std::string_view name_of(TunnelEnd end) {
  switch (end) {
    case TunnelEnd::none: return "none";
    case TunnelEnd::fatal_frame: return "fatal frame";
    case TunnelEnd::unresponsive: return "unresponsive";
    case TunnelEnd::idle: return "idle";
    case TunnelEnd::drained: return "drained";
    case TunnelEnd::spent: return "spent";
  }
  return "unknown";
}

SendLimits limits_from(const Hello& hello) {
  return {std::clamp<std::size_t>(hello.max_data, mux::kMaxData, mux::kMaxDataEver),
          std::clamp<std::size_t>(hello.max_datagram, mux::kMaxDatagram, mux::kMaxDataEver)};
}

bool same_name(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return std::tolower(static_cast<unsigned char>(c)); };
  return std::ranges::equal(a, b, {}, lower, lower);
}

std::uint64_t Padding::draw() {  // splitmix64
  std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

Bytes Padding::next() {
  Bytes out(1 + draw() % 63);
  for (auto& byte : out) byte = static_cast<std::uint8_t>(draw());
  return out;
}

void Liveness::heard(TimePoint now) {
  heard_ = now;
  waiting_ = false;
  missed_ = 0;
}

void Liveness::set_reading(bool reading, TimePoint now) {
  if (reading && !reading_) heard(now);
  reading_ = reading;
}

bool Liveness::ping_due(TimePoint now) {
  if (own_) {
    if (!reading_ || missed_ >= kOwnMissed || now < own_ping_at()) return false;
    ++missed_;
    ++ping_id_;
  } else if (!reading_ || waiting_ || now - heard_ < kQuiet) {
    return false;
  }
  waiting_ = answer_due_ = true;
  ping_sent_ = now;
  return true;
}

void Liveness::ping_answered(TimePoint now) {
  if (std::exchange(answer_due_, false)) rtt_ = now - ping_sent_;
}

void Liveness::use_own_pings(TimePoint now) {
  if (std::exchange(own_, true)) return;
  waiting_ = answer_due_ = false;
  ping_sent_ = now - kOwnRefresh;
}

TimePoint Liveness::own_ping_at() const {
  return std::min(std::max(heard_, ping_sent_) + kOwnQuiet, ping_sent_ + (waiting_ ? kOwnQuiet : kOwnRefresh));
}

void Liveness::ping_answered(std::uint64_t id, TimePoint now) {
  if (!own_ || id != ping_id_ || !answer_due_) return;
  ping_answered(now);
  rtts_[rtts_seen_++ % rtts_.size()] = rtt_;
}

Duration Liveness::min_rtt() const {
  const std::size_t count = std::min(rtts_seen_, rtts_.size());
  return count == 0 ? rtt_ : *std::min_element(rtts_.begin(), rtts_.begin() + static_cast<std::ptrdiff_t>(count));
}

bool Liveness::dead(TimePoint now) const {
  if (!reading_ || !waiting_) return false;
  return own_ ? missed_ >= kOwnMissed && now - ping_sent_ >= kOwnQuiet : now - ping_sent_ >= kPatience;
}

bool Liveness::suspect(TimePoint now) const {
  if (!reading_ || !waiting_) return false;
  return own_ ? missed_ > 1 : now - ping_sent_ >= kSuspect;
}

TimePoint Liveness::next_deadline() const {
  if (!reading_) return TimePoint::max();
  if (own_) return missed_ >= kOwnMissed ? ping_sent_ + kOwnQuiet : own_ping_at();
  return waiting_ ? ping_sent_ + kPatience : heard_ + kQuiet;
}

}  // namespace ebb::reverse
