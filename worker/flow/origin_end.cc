#include "worker/flow/origin_end.h"

#include <algorithm>
#include <utility>

#include "common/base/log.h"

namespace ebb::flow {

OriginEnd::OriginEnd(net::UvLoop& loop, OriginWay way) : loop_(loop), way_(std::move(way)) {}

OriginEnd::~OriginEnd() { close(); }

void OriginEnd::close() {
  closed_ = true;
  for (auto& each : sockets_) {
    if (each) each->udp->close();  // the objects stay: one of them may be telling us something
  }
  waiting_.clear();
}

bool OriginEnd::send(ConstSpan datagram, const Target* address) {
  if (closed_) return false;
  const bool own = address != nullptr && !way_.redirected;
  const Host& host = own ? address->host : way_.host;
  const std::uint16_t port = own ? address->port : way_.port;
  if (port == 0) return false;
  if (const auto* ip = std::get_if<IpAddress>(&host)) return send_to(datagram, {*ip, port});
  return send_to_name(datagram, std::get<std::string>(host), port);
}

bool OriginEnd::send_to(ConstSpan datagram, const Endpoint& to) {
  net::UdpSocket* from = socket(to.ip.v6);
  // Here and not before the wait for a name, where the oldest is dropped: with the header.
  return from != nullptr && send_led(datagram, [&](ConstSpan out) { return from->send(out, to); });
}

bool OriginEnd::send_to_name(ConstSpan datagram, const std::string& name, std::uint16_t port) {
  auto known = std::ranges::find(names_, name, &Name::name);
  if (known == names_.end()) {
    if (names_.size() >= kMaxNames) return false;
    known = names_.insert(known, {name, std::nullopt, nullptr, {}});
    look_up(*known);
  }
  if (known->ip) return send_to(datagram, {*known->ip, port});
  if (!known->lookup) {
    if (loop_.now() - known->asked < kAskAgain) return false;
    look_up(*known);
  }
  if (datagram.size() > kMaxWaitingBytes) return false;
  waiting_.push_back({Bytes(datagram.begin(), datagram.end()), name, port});
  waiting_bytes_ += datagram.size();
  while (waiting_.size() > kMaxWaiting || waiting_bytes_ > kMaxWaitingBytes) {
    waiting_bytes_ -= waiting_.front().datagram.size();
    waiting_.pop_front();
  }
  return true;
}

void OriginEnd::look_up(Name& entry) {
  entry.asked = loop_.now();
  entry.lookup = std::make_unique<net::Lookup>(
      loop_, Host(entry.name),
      [this, name = entry.name](Result<std::vector<IpAddress>> found) { looked_up(name, std::move(found)); });
}

void OriginEnd::looked_up(const std::string& name, Result<std::vector<IpAddress>> found) {
  const auto known = std::ranges::find(names_, name, &Name::name);
  const auto lookup = std::move(known->lookup);  // ended with this call
  if (found) {
    // The first in the resolver's order that our own address can reach.
    const auto usable = [&](const IpAddress& ip) { return !way_.bind || way_.bind->v6 == ip.v6; };
    const auto first = std::ranges::find_if(*found, usable);
    if (first != found->end()) known->ip = *first;
  } else if (const auto others = may_say(&FlowLines::no_address)) {
    log_event(log::Level::info, "flow", "origin has no address", kv("reason", found.error()), kv("others", *others));
  }
  std::deque<Waiting> rest;
  for (auto& each : std::exchange(waiting_, {})) {
    if (each.name != name) {
      rest.push_back(std::move(each));
      continue;
    }
    waiting_bytes_ -= each.datagram.size();
    if (known->ip && !closed_) send_to(each.datagram, {*known->ip, each.port});
  }
  waiting_ = std::move(rest);
}

void OriginEnd::answered(ConstSpan datagram, const Endpoint& from) {
  if (closed_ || flow_ == nullptr) return;
  const Target source{Network::udp, from.ip, from.port};
  flow_->on_datagram(*this, datagram, way_.redirected ? nullptr : &source);
}

net::UdpSocket* OriginEnd::socket(bool v6) {
  auto& kept = sockets_[v6 ? 1 : 0];
  if (kept) return kept->udp.get();
  if (way_.bind && way_.bind->v6 != v6) return nullptr;
  auto bound = net::UdpSocket::bind({way_.bind.value_or(IpAddress{v6, {}}), 0});
  if (!bound) {  // once for each datagram while descriptors are short
    if (const auto others = may_say(&FlowLines::no_socket)) {
      log_event(log::Level::warning, "flow", "no socket towards an origin", kv("reason", bound.error()),
                kv("others", *others));
    }
    return nullptr;
  }
  net::UdpSocket::widen_buffers(bound->get(), kBuffers);
  auto made = std::make_unique<Socket>(*this);
  made->udp = net::UdpSocket::make(loop_, std::move(*bound), *made);
  if (made->udp == nullptr) return nullptr;
  made->udp->watch(true);
  kept = std::move(made);
  if (sockets_[v6 ? 0 : 1] && flow_ != nullptr) flow_->added_socket();
  return kept->udp.get();
}

}  // namespace ebb::flow
