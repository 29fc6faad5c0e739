// PortalTunnel, first part of its life: whose bridge is it?
#include <utility>

#include "common/reverse/extension.h"
#include "common/reverse/portal_tunnel.h"

namespace ebb::reverse {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// PROTOCOL.md, probe: its clock.
constexpr auto kHelloWait = milliseconds(150);
constexpr auto kOneAnswerWait = milliseconds(400);
constexpr auto kNoAnswerWait = seconds(10);

}  // namespace

void PortalTunnel::start_probe() {
  if (settings_.remembered == Dialect::v2fly) std::swap(probe_names_[0], probe_names_[1]);
  if (settings_.offer_hello && (settings_.hello.features & kFeatureCredit) != 0) flow_.expect(false);
  const ConstSpan marker = settings_.offer_hello ? ConstSpan(mux::kHelloMarker) : ConstSpan();
  for (std::size_t i = 0; i < 2; ++i) probe_ids_[i] = *open_internal(control_name(probe_names_[i]), {}, marker);
  probe_ = Probe::hello_wait;
  judge_at_ = started_ + kHelloWait;
}

void PortalTunnel::judge_probe(TimePoint now) {
  if (probe_ == Probe::hello_wait) {
    probe_ = Probe::end_wait;
    for (std::size_t i = 0; i < 2; ++i) {
      if (answered_[i]) continue;
      session_.queue_end(probe_ids_[i], false);
      session_.set_silent(probe_ids_[i]);  // stays in the table: its answer is the evidence
    }
    judge_at_ = answered_[0] || answered_[1] ? now + kOneAnswerWait : started_ + kNoAnswerWait;
    return;
  }
  if (answered_[0]) return decide(probe_names_[1], now);
  if (answered_[1]) return decide(probe_names_[0], now);
  unsure_ = true;
  decide(settings_.remembered.value_or(Dialect::v2ray), now);
}

void PortalTunnel::probe_answered(StreamId stream, TimePoint now) {
  answered_[stream == probe_ids_[0] ? 0 : 1] = true;
  if (answered_[0] && answered_[1]) return decide(Dialect::xray, now);
  if (probe_ == Probe::end_wait) judge_at_ = now + kOneAnswerWait;
}

void PortalTunnel::stop_probe() {
  if (std::exchange(probe_, Probe::none) == Probe::none) return;
  for (const auto id : probe_ids_) session_.close(id);
}

void PortalTunnel::decide(Dialect dialect, TimePoint now) {
  stop_probe();
  flow_.forgo();
  dialect_ = dialect;
  if (dialect == Dialect::xray && !unsure_) send_limits_.max_datagram = mux::kMaxDatagramXray;
  if (state_ == State::probing) state_ = State::active;
  open_control(now, false);
}

void PortalTunnel::on_hello(const Hello& hello, StreamId stream, TimePoint now, mux::SessionEvents& events) {
  if (peer_hello_) peer_hello_->weight = hello.weight;  // a reload of the bridge; nothing else changes while it lives
  if (peer_hello_ || hello.version == 0) return;
  peer_hello_ = hello;
  send_limits_ = limits_from(hello);
  features_ = hello.features & settings_.hello.features;  // our own hello goes out below, before any later frame
  const auto early = (features_ & kFeatureCredit) != 0 ? flow_.agree(hello.initial_window) : flow_.forgo();
  if ((features_ & kFeaturePing) != 0) liveness_.use_own_pings(now);
  if (tells_reasons()) session_.agree_end_data();
  if (state_ == State::probing) state_ = State::active;
  const auto other = stream == probe_ids_[0] ? 1 : 0;
  if (probe_ == Probe::hello_wait) {  // in time: the marked session becomes the control stream
    if (!answered_[other]) session_.queue_end(probe_ids_[other], false);
    session_.close(probe_ids_[other]);
    probe_ = Probe::none;
    control_ = stream;
    send_beat(now, true);
  } else {  // our End was under way already: a fresh control stream
    stop_probe();
    open_control(now, true);
  }
  tell_agreed(early, features_, session_, events);
}

}  // namespace ebb::reverse
