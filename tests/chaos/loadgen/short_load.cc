#include "tests/chaos/loadgen/short_load.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ebb::loadgen {

/// connecting -> id sent -> answered -> ended. An even one waits for the origin's end of stream, an odd one closes
/// at once; with `close_first` all do, and the origin only then.
class ShortLoad::Connection final : public Watcher {
 public:
  explicit Connection(ShortLoad& load) : load_(load) {}

  bool begin(std::uint64_t sequence, const Target& target, std::int64_t now) {
    id_ = Id{.run = load_.settings_.run,
             .kind = load_.settings_.close_first ? Kind::wait : Kind::once,
             .sequence = sequence};
    started_ = now;
    target_ = target.text;
    sent_ = got_ = 0;
    fd_ = dial(target, sequence);
    if (!fd_) return false;
    load_.poller_.add(fd_.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, *this);
    return true;
  }

  void on_event(std::uint32_t events) override {
    if ((events & EPOLLOUT) != 0 && sent_ < kIdBytes && !say()) return;
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) listen();
  }

  void expire() {
    answered() ? end(Fault::timeout) : fail(Fault::timeout, sent_ == 0 ? "while connecting" : "no answer");
  }

  std::int64_t started() const { return started_; }

  /// The start itself failed: nothing is open.
  void fail_at_start(int error) {
    // ECONNREFUSED and the like come from there; everything else is our own want of sockets, ports or memory.
    const bool theirs = error == ECONNREFUSED || error == ECONNRESET || error == ETIMEDOUT || error == EHOSTUNREACH;
    fail(theirs ? Fault::connect : Fault::ours, std::strerror(error));
  }

  Connection* older = nullptr;
  Connection* younger = nullptr;

 private:
  bool answered() const { return got_ == kIdBytes; }

  bool say() {
    const IdBytes bytes = encode(id_);
    const ssize_t done = ::send(fd_.get(), bytes.data() + sent_, kIdBytes - sent_, MSG_NOSIGNAL);
    if (done >= 0) {
      sent_ += static_cast<std::size_t>(done);
      return true;
    }
    if (errno == EAGAIN || errno == ENOTCONN) return true;
    fail(sent_ == 0 && errno != EPIPE && errno != ECONNRESET ? Fault::connect : Fault::reset, std::strerror(errno));
    return false;
  }

  void listen() {
    for (;;) {
      std::array<std::uint8_t, kIdBytes + 1> bytes;
      const ssize_t done = ::recv(fd_.get(), bytes.data(), bytes.size(), 0);
      if (done < 0) {
        if (errno == EAGAIN) return;
        if (answered()) return end(Fault::reset);
        const bool early = sent_ == 0 && errno != ECONNRESET;
        return fail(early ? Fault::connect : Fault::reset, std::strerror(errno));
      }
      if (done == 0) {
        if (answered()) return end(Fault::count_);
        return fail(Fault::early_end, std::to_string(got_) + " bytes came");
      }
      const auto count = static_cast<std::size_t>(done);
      const IdBytes expected = encode(id_);
      if (got_ + count > kIdBytes || std::memcmp(bytes.data(), expected.data() + got_, count) != 0) {
        const auto other = got_ == 0 ? decode(bytes) : std::nullopt;
        return fail(Fault::wrong, other ? "the answer to " + std::to_string(other->sequence) : "other bytes");
      }
      got_ += count;
      if (!answered()) continue;
      load_.tally_.ok(now_us() - started_);
      if (id_.kind == Kind::wait || id_.sequence % 2 == 1) return end(Fault::count_);
    }
  }

  void end(Fault how) {
    if (how != Fault::count_) load_.tally_.bad_end(how);
    close();
  }

  void fail(Fault fault, std::string detail) {
    load_.tally_.fail(
        {id_.sequence, fault, started_, now_us(), fd_ ? local_name(fd_.get()) : "", target_, std::move(detail)});
    close();
  }

  void close() {
    fd_.reset();
    load_.release(*this);
  }

  ShortLoad& load_;
  Id id_;
  Fd fd_;
  std::string target_;
  std::int64_t started_ = 0;
  std::size_t sent_ = 0, got_ = 0;
};

ShortLoad::ShortLoad(Poller& poller, Settings settings, std::vector<Target> targets)
    : poller_(poller),
      settings_(settings),
      targets_(std::move(targets)),
      next_sequence_(settings.first),
      base_us_(now_us()) {}

ShortLoad::~ShortLoad() = default;

void ShortLoad::tick(std::int64_t now) {
  constexpr int kBurst = 64;  // starts per tick: after a stall we catch up, but not in one blow
  while (oldest_ != nullptr && oldest_->started() + kTimeoutUs <= now) oldest_->expire();
  if (now >= settings_.until_us || targets_.empty()) return;
  const auto due = static_cast<std::uint64_t>(static_cast<double>(now - base_us_) * settings_.rate / 1e6);
  for (int i = 0; i < kBurst && started_since_base_ < due; ++i) {
    if (open_ >= settings_.most_open) {
      ++held_back_;
      return;
    }
    start(now);
  }
}

void ShortLoad::set_rate(double rate, std::int64_t now) {
  settings_.rate = rate;
  base_us_ = now;
  started_since_base_ = 0;
}

void ShortLoad::drop_target(std::string_view text) {
  std::erase_if(targets_, [&](const Target& target) { return target.text == text; });
  set_rate(settings_.rate, now_us());
}

void ShortLoad::start(std::int64_t now) {
  if (free_.empty()) {
    all_.push_back(std::make_unique<Connection>(*this));
    free_.push_back(all_.back().get());
  }
  Connection& connection = *free_.back();
  free_.pop_back();
  connection.older = youngest_;
  connection.younger = nullptr;
  (youngest_ != nullptr ? youngest_->younger : oldest_) = &connection;
  youngest_ = &connection;
  peak_ = std::max(peak_, ++open_);
  ++started_since_base_;
  const std::uint64_t sequence = next_sequence_++;
  if (!connection.begin(sequence, targets_[sequence % targets_.size()], now)) connection.fail_at_start(errno);
}

void ShortLoad::release(Connection& connection) {
  (connection.older != nullptr ? connection.older->younger : oldest_) = connection.younger;
  (connection.younger != nullptr ? connection.younger->older : youngest_) = connection.older;
  free_.push_back(&connection);
  --open_;
}

}  // namespace ebb::loadgen
