// The side of a relay that is a stream of a tunnel.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "common/base/strong_id.h"
#include "worker/relay/relay.h"
#include "worker/tunnel/laggards.h"
#include "worker/tunnel/scheduler.h"
#include "worker/tunnel/stream_user.h"

namespace ebb::tunnel {

class Tunnel;

class MuxSide final : public relay::Side, public Source, private StreamUser {
 public:
  /// Of a stream that is open; Tunnel::make_side() makes it the stream's user. `source`: of who consumes what comes.
  MuxSide(Tunnel& tunnel, StreamId stream, SourceLedger::Key source);
  ~MuxSide() override;

  void send(ConstSpan piece) override;
  void flush() override;
  void send_end() override;
  void abort(const Error& why) override;
  void wind_down() override;
  std::size_t room() override;
  std::size_t queued() const override;
  std::uint64_t delivered() const override;
  void resume() override { report_consumed(); }
  void close() override;
  bool wants_progress() const override { return true; }
  void on_consumer_progress() override { report_consumed(); }
  std::uint64_t credit() const override;
  StreamId stream() const { return stream_; }

 private:
  friend class Tunnel;
  void on_stream_data(ConstSpan payload) override;
  void on_stream_datagram(const Target*, ConstSpan datagram) override { on_stream_data(datagram); }
  void on_stream_end(bool error, const reverse::Abort* why) override;
  void on_stream_fin() override;
  void on_stream_credit() override;
  void on_stream_sent() override { relay_->on_progress(*this); }
  void on_end_due() override { end_and_listen(); }

  void on_batch_end();
  void end();
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
  bool fin_sent_ = false;
  bool end_sent_ = false;    // and listens for the rest of the answer
  bool end_wanted_ = false;  // send_end() came while bytes were held back
  bool winding_ = false;     // and wind_down()
  bool quiet_ = false;       // send_end() came, and End waits until the answer has paused
  SourceLedger::Key source_;
  /// Who consumes what comes, once he has held some of it, while the peer is not held to credit.
  struct Lagging final : Consumer {
    Lagging(MuxSide& owner, SourceLedger::Key source) : Consumer(source), side(owner) {}
    MuxSide& side;
  };
  std::unique_ptr<Lagging> lagging_;
  Bytes held_back_;                  // given to us beyond the credit: what was read before anybody could ask
  std::uint64_t received_ = 0;       // payload of the peer
  std::uint64_t consumed_ = 0;       // of it, what the engine knows to have left
  std::size_t dirty_at_ = kNowhere;  // place in the list of those who got data in this batch
  std::uint64_t sent_until_ = 0;     // the wire's accepted() behind our last bytes
  TimePoint heard_at_{};             // last data of the peer
};

}  // namespace ebb::tunnel
