#include "common/protocol/mux/session.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

namespace ebb::mux {
namespace {

constexpr std::size_t kMaxOutput = std::size_t{64} << 10;  // answers a peer can provoke without reading them
constexpr std::size_t kHardOutput = std::size_t{1} << 20;  // and those that must not be lost: beyond it he is hostile
constexpr std::size_t kMostIds = 65534;                    // FFFF is the ping's

}  // namespace

Session::Session(Role role, SessionLimits limits) : role_(role), limits_(limits) {
  limits_.max_ids = std::min(limits_.max_ids, kMostIds);
}

Decoded<> Session::feed(ConstSpan in, SessionEvents& events) {
  while (!in.empty()) {
    if (data_left_ > 0) {
      in = in.subspan(take_body(in, events));
      continue;
    }
    if (partial_.empty()) {
      const auto step = decode_head(in);
      if (!step) return std::unexpected{step.error()};
      if (step->message) {
        in = in.subspan(step->used);
        if (auto started = start_frame(*step->message, events); !started) return started;
        continue;
      }
    }
    // A head cut by the end of the input: finish it byte-exactly in the side buffer, then go on with the input.
    const auto before = partial_.size();
    const auto room = std::min(in.size(), kMaxHead - before);
    partial_.insert(partial_.end(), in.begin(), in.begin() + static_cast<std::ptrdiff_t>(room));
    const auto step = decode_head(partial_);
    if (!step) return std::unexpected{step.error()};
    if (!step->message) {
      in = in.subspan(room);  // all of it: kMaxHead bytes always hold a whole head
      continue;
    }
    in = in.subspan(step->used - before);
    const Bytes head = std::exchange(partial_, {});  // the head's spans point into it
    if (auto started = start_frame(*step->message, events); !started) return started;
  }
  return {};
}

Decoded<> Session::start_frame(const Head& head, SessionEvents& events) {
  ++counters_.frames;
  current_ = head.stream;
  body_ = Body::skip;
  data_left_ = head.data_bytes;
  fin_follows_ = false;
  switch (head.status) {
    case Status::open:
      if (auto opened = on_new(head, events); !opened) return opened;
      break;
    case Status::keep: on_keep(head, events); break;
    case Status::end: on_end(head, events); break;
    case Status::keep_alive: break;  // no reply; its data is thrown away
  }
  if (output_.size() > kHardOutput) return std::unexpected{WireError{WireFault::bad_option, 0}};
  return {};
}

Decoded<> Session::on_new(const Head& head, SessionEvents& events) {
  auto open = decode_open(head.meta);
  if (!open) return std::unexpected{open.error()};
  if (role_ == Role::opener) {
    ++counters_.ignored_new;
    return {};
  }
  const auto id = head.stream;
  if (const auto old = streams_.find(id.value); old != streams_.end()) {
    ++counters_.reopened;
    void* const user = old->second.user;
    erase(old);
    events.on_end(id, user, true);  // no frame for the old one: the id belongs to the new one now
  }
  if (streams_.size() >= limits_.max_streams) {
    ++counters_.surplus;
    queue_end(id, true);
    return {};
  }
  streams_[id.value] = Stream{.network = open->target.network};
  packet_from_.reset();
  events.on_open(id, open->target, open->trailing);
  const auto opened = streams_.find(id.value);  // the callback may have refused it, or made it a message stream
  if (head.data_bytes > 0 && opened != streams_.end()) {
    body_ = opened->second.network == Network::udp ? Body::datagram : Body::stream;
  }
  return {};
}

void Session::on_keep(const Head& head, SessionEvents& events) {
  if (!head.has_data() && !head.fin()) return;
  const auto found = streams_.find(head.stream.value);
  if (found == streams_.end()) {
    if (!head.has_data()) return;
    ++counters_.unknown_data;
    answer_unknown(head.stream);
    return;
  }
  const Stream& stream = found->second;
  const bool fin = head.fin() && stream.half_close && !stream.fin_received;
  if (head.data_bytes == 0) {
    if (fin) on_fin(head.stream, events);
    return;
  }
  if (stream.fin_received) {
    ++counters_.after_fin;
    void* const user = stream.user;
    erase(found);
    queue_end(head.stream, true);
    events.on_end(head.stream, user, true);
    return;
  }
  if (stream.network == Network::tcp) {
    body_ = Body::stream;
    fin_follows_ = fin;
    return;
  }
  body_ = Body::datagram;
  packet_from_ = packet_address(head.meta);
}

void Session::on_end(const Head& head, SessionEvents& events) {
  if (!end_data_agreed_ || !head.error() || head.data_bytes == 0) return ended(head.stream, head.error(), events);
  body_ = Body::end;
}

void Session::ended(StreamId id, bool error, SessionEvents& events) {
  const auto found = streams_.find(id.value);
  if (found == streams_.end()) {
    events.on_stray_end(id);
    return;
  }
  const auto stream = found->second;
  erase(found);
  // The acceptor's answer to any End is End + Error, as Xray's: no further data will come (PROTOCOL.md, half-closes).
  if (!stream.silent) queue_end(id, role_ == Role::acceptor || error);
  events.on_end(id, stream.user, error);
}

std::size_t Session::take_body(ConstSpan in, SessionEvents& events) {
  const auto piece = in.first(std::min(in.size(), data_left_));
  data_left_ -= piece.size();
  switch (body_) {
    case Body::skip: break;
    case Body::stream: {
      // Looked up for every piece: a callback may have closed the stream, and then the rest is dropped.
      if (const auto found = streams_.find(current_.value); found != streams_.end()) {
        events.on_data(current_, found->second.user, piece);
      }
      if (data_left_ == 0 && fin_follows_) on_fin(current_, events);
      break;
    }
    case Body::datagram:
      if (datagram_.empty() && data_left_ == 0) {
        deliver_datagram(piece, events);
        break;
      }
      if (datagram_.empty()) datagram_.reserve(piece.size() + data_left_);
      datagram_.insert(datagram_.end(), piece.begin(), piece.end());  // one copy, only for a datagram cut in two
      if (data_left_ == 0) {
        const Bytes whole = std::exchange(datagram_, {});
        deliver_datagram(whole, events);
      }
      break;
    case Body::end: {
      const auto kept = piece.first(std::min(piece.size(), kMaxEndData - end_data_.size()));
      end_data_.insert(end_data_.end(), kept.begin(), kept.end());
      if (data_left_ > 0) break;
      ended(current_, true, events);
      end_data_.clear();
      break;
    }
  }
  return piece.size();
}

void Session::deliver_datagram(ConstSpan payload, SessionEvents& events) {
  const auto from = std::exchange(packet_from_, std::nullopt);
  const auto found = streams_.find(current_.value);
  if (found == streams_.end()) return;
  events.on_datagram(current_, found->second.user, from ? &*from : nullptr, payload);
}

void Session::answer_unknown(StreamId stream) {
  // A peer that goes on sending a cancelled download needs one answer per batch, not one per frame.
  if (last_answered_ == stream.value || output_.size() >= kMaxOutput) return;
  last_answered_ = stream.value;
  queue_end(stream, false);
}

Bytes Session::take_output() {
  last_answered_.reset();
  return std::exchange(output_, {});
}

std::optional<Session::Opened> Session::open(const Target& target, void* user, MutSpan out, std::size_t data_bytes,
                                             ConstSpan trailing) {
  assert(role_ == Role::opener);
  if (!ids_left() || streams_.size() >= limits_.max_streams) return std::nullopt;
  const StreamId id{static_cast<std::uint16_t>(ids_used_ + 1)};
  const auto written = write_new(out, id, target, data_bytes, trailing);
  if (written == 0) return std::nullopt;
  ++ids_used_;
  streams_[id.value] = Stream{.user = user, .network = target.network};
  return Opened{id, written};
}

void Session::close(StreamId stream) {
  if (const auto found = streams_.find(stream.value); found != streams_.end()) erase(found);
}

void Session::erase(Streams::iterator stream) {
  if (stream->second.held) --held_;
  streams_.erase(stream);
}

void Session::agree_half_close(StreamId stream) {
  const auto found = streams_.find(stream.value);
  if (found != streams_.end() && found->second.network == Network::tcp) found->second.half_close = true;
}

bool Session::half_close(StreamId stream) const {
  const auto found = streams_.find(stream.value);
  return found != streams_.end() && found->second.half_close;
}

bool Session::fin_sent(StreamId stream) {
  const auto found = streams_.find(stream.value);
  if (found == streams_.end()) return true;
  found->second.fin_sent = true;
  if (!found->second.fin_received) return false;
  erase(found);
  return true;
}

void Session::on_fin(StreamId stream, SessionEvents& events) {
  const auto found = streams_.find(stream.value);  // a callback may have closed it
  if (found == streams_.end()) return;
  found->second.fin_received = true;
  void* const user = found->second.user;
  if (found->second.fin_sent) erase(found);
  events.on_fin(stream, user);
}

void Session::set_held(StreamId stream) {
  const auto found = streams_.find(stream.value);
  if (found != streams_.end() && !std::exchange(found->second.held, true)) ++held_;
}

void Session::set_user(StreamId stream, void* user) {
  if (const auto found = streams_.find(stream.value); found != streams_.end()) found->second.user = user;
}

void Session::set_silent(StreamId stream) {
  if (const auto found = streams_.find(stream.value); found != streams_.end()) found->second.silent = true;
}

void Session::set_message_stream(StreamId stream) {
  if (const auto found = streams_.find(stream.value); found != streams_.end()) found->second.network = Network::udp;
}

void* Session::user(StreamId stream) const {
  const auto found = streams_.find(stream.value);
  return found == streams_.end() ? nullptr : found->second.user;
}

std::optional<Network> Session::network(StreamId stream) const {
  const auto found = streams_.find(stream.value);
  if (found == streams_.end()) return std::nullopt;
  return found->second.network;
}

std::vector<StreamId> Session::ids() const {
  std::vector<StreamId> out;
  out.reserve(streams_.size());
  for (const auto& [id, stream] : streams_) out.push_back(StreamId{id});
  return out;
}

void Session::append_output(ConstSpan frames) { output_.insert(output_.end(), frames.begin(), frames.end()); }

void Session::queue_end(StreamId stream, bool error) {
  std::array<std::uint8_t, kEndFrame> frame{};
  write_end(frame, stream, error);
  append_output(frame);
}

}  // namespace ebb::mux
