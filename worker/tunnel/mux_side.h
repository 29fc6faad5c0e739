// The side of a relay that is a stream of a tunnel.
#pragma once

#include <chrono>
#include <cstdint>

#include "common/base/strong_id.h"
#include "worker/relay/relay.h"
#include "worker/tunnel/stream_user.h"

namespace ebb::tunnel {

class Tunnel;

class MuxSide final : public relay::Side, private StreamUser {
 public:
  /// Of a stream that is open; Tunnel::make_side() makes it the stream's user.
  MuxSide(Tunnel& tunnel, StreamId stream);
  ~MuxSide() override;

  void send(ConstSpan piece) override;
  void flush() override {}
  void send_end() override;
  void abort() override;
  void wind_down() override;
  std::size_t room() override;
  std::size_t queued() const override;
  std::uint64_t delivered() const override;
  void pause() override {}  // the tunnel goes on for the others, and counts what is queued
  void resume() override;
  void close() override;
  bool wants_progress() const override { return credited_; }
  void on_consumer_progress() override { report_consumed(); }
  StreamId stream() const { return stream_; }

 private:
  friend class Tunnel;
  void on_stream_data(ConstSpan payload) override;
  void on_stream_datagram(const Target*, ConstSpan datagram) override { on_stream_data(datagram); }
  void on_stream_end(bool error) override;
  void on_stream_fin() override;
  void on_stream_credit() override;
  void on_stream_sent() override { relay_->on_progress(*this); }
  void on_end_due() override { end_and_listen(); }

  void on_batch_end();
  void end(bool error);
  void send_fin();
  void end_and_listen();
  void tunnel_over();
  void report_consumed();
  void send_held_back();
  relay::Side& consumer() { return relay_->other(*this); }

  static constexpr Duration kFlowing = std::chrono::seconds(1);          // an answer without so long a pause
  static constexpr Duration kSign = std::chrono::milliseconds(300);      // a round trip to a visitor
  static constexpr Duration kAnswerPatience = std::chrono::seconds(30);  // stock bridges end by themselves within 2 s
  static constexpr std::size_t kNowhere = static_cast<std::size_t>(-1);

  Tunnel* tunnel_;  // null once the stream is over
  StreamId stream_;
  bool credited_;           // both directions
  bool fin_sent_ = false;
  bool end_sent_ = false;   // and listens for the rest of the answer
  bool end_wanted_ = false;  // send_end() came while bytes were held back
  bool winding_ = false;     // and wind_down()
  bool no_credit_ = false;   // room() said no for want of it
  bool waiting_ = false;     // in the tunnel's queue for room
  MuxSide* prev_waiting_ = nullptr;
  MuxSide* next_waiting_ = nullptr;
  Bytes held_back_;                   // given to us beyond the credit: what was read before anybody could ask
  std::uint64_t received_ = 0;        // payload of the peer
  std::uint64_t consumed_ = 0;        // of it, what the engine knows to have left
  std::size_t dirty_at_ = kNowhere;   // place in the list of those who got data in this batch
  std::size_t behind_at_ = kNowhere;  // place in the list of those whose consumer holds bytes
  std::uint64_t sent_until_ = 0;      // the wire's accepted() behind our last bytes
  std::uint64_t seen_delivered_ = 0;
  TimePoint progress_at_{};
  TimePoint heard_at_{};  // last data of the peer
};

}  // namespace ebb::tunnel
