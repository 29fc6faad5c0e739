#include "worker/flow/mux_end.h"

#include <utility>

namespace ebb::flow {

MuxEnd::MuxEnd(tunnel::Tunnel& tunnel, StreamId stream) : tunnel_(&tunnel), stream_(stream) {
  tunnel.set_stream_user(stream, this);
}

MuxEnd::~MuxEnd() { close(); }

bool MuxEnd::send(ConstSpan datagram, const Target* address) {
  if (tunnel_ == nullptr) return false;
  const bool told = tells_addresses_ || tunnel_->engine().packet_addresses();
  return send_led(datagram,
                  [&](ConstSpan out) { return tunnel_->send_datagram(stream_, out, told ? address : nullptr); });
}

void MuxEnd::close() {
  if (tunnel_ != nullptr) std::exchange(tunnel_, nullptr)->end_stream(stream_);
}

void MuxEnd::on_stream_data(ConstSpan payload) { on_stream_datagram(nullptr, payload); }

void MuxEnd::on_stream_datagram(const Target* address, ConstSpan datagram) {
  if (address != nullptr) tells_addresses_ = true;
  if (flow_ != nullptr) flow_->on_datagram(*this, datagram, address);
}

void MuxEnd::on_stream_end(bool, const reverse::Abort*) {
  tunnel_ = nullptr;
  if (flow_ != nullptr) flow_->on_end(*this);
}

}  // namespace ebb::flow
