#include "worker/flow/wire_end.h"

#include <utility>

#include "common/base/log.h"
#include "common/net/linger.h"

namespace ebb::flow {

WireEnd::WireEnd(net::Loop& loop, relay::BlockPool& blocks, layers::Stack stack)
    : max_datagram_(stack.max_payload()), wire_(loop, blocks, std::move(stack)) {
  wire_.observe(this);
}

WireEnd::~WireEnd() { close(); }

void WireEnd::attach(std::unique_ptr<net::Stream> stream, Bytes unread) {
  wire_.attach(std::move(stream), std::move(unread));
}

void WireEnd::dial(net::UvLoop& loop, net::DialPlan plan) {
  dial_.emplace(loop, std::move(plan), [this](Result<std::unique_ptr<net::TcpStream>> stream) {
    if (stream) return attach(std::move(*stream));
    if (flow_ == nullptr) return;
    if (const auto others = may_say(&FlowLines::no_server)) {
      log_event(log::Level::info, "flow", "server could not be reached", kv("reason", stream.error()),
                kv("others", *others));
    }
    flow_->on_end(*this);
  });
}

bool WireEnd::send(ConstSpan datagram, const Target*) {
  return send_led(datagram, [this](ConstSpan out) {
    // An empty one would be the end mark; one chunk more than the datagram would be another datagram.
    const std::size_t most = wire_.attached() && !wire_.pressed() ? kMostUnsent : relay::Wire::kDialling;
    if (out.empty() || out.size() > max_datagram_ || wire_.queued() > most) return false;
    wire_.send(out);
    return true;
  });
}

void WireEnd::close() {
  dial_.reset();
  if (wire_.attached()) {
    wire_.send_end();
    wire_.flush();
  }
  if (auto stream = wire_.detach()) net::linger_close(std::move(stream));
}

void WireEnd::on_plain(MutSpan datagram) {
  if (flow_ != nullptr) flow_->on_datagram(*this, datagram, nullptr);
}

void WireEnd::on_wire_end() {
  if (flow_ != nullptr) flow_->on_end(*this);
}

void WireEnd::on_wire_failed(Error) {
  if (flow_ != nullptr) flow_->on_end(*this);
}

}  // namespace ebb::flow
