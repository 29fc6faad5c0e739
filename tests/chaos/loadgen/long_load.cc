#include "tests/chaos/loadgen/long_load.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <random>

#include "tests/chaos/loadgen/short_load.h"
#include "tests/chaos/loadgen/wire.h"

namespace ebb::loadgen {

namespace {

constexpr std::uint64_t kFirstSequence = 1ull << 40;  // apart from the short ones'
constexpr std::int64_t kReopenAfterUs = 1'000'000;
constexpr std::uint64_t kBulkWindow = 4u << 20;   // sent and not yet back
constexpr std::size_t kPatternBytes = 1'048'573;  // a prime: bytes at a wrong place never fit

/// The same bytes for every stream, each beginning elsewhere.
const std::vector<std::uint8_t>& pattern() {
  static const std::vector<std::uint8_t> bytes = [] {
    std::vector<std::uint8_t> made(kPatternBytes);
    std::mt19937_64 random(7);
    for (auto& byte : made) byte = static_cast<std::uint8_t>(random());
    return made;
  }();
  return bytes;
}

}  // namespace

/// Sends pieces and expects them back. A piece is 16 bytes per exchange, or the pattern without end.
class LongLoad::Stream final : public Watcher {
 public:
  explicit Stream(LongLoad& load) : load_(load) {}

  void tick(std::int64_t now) {
    if (!fd_) {
      if (!ended_ && !load_.stopping_ && now >= next_) open(now);
      return;
    }
    if (now - progress_ >= kTimeoutUs && (bulk() || echoed_ < sent_ || !connected_))
      return fail(Fault::timeout, "no answer");
    if (bulk() || !connected_ || echoed_ < sent_) return;
    if (load_.stopping_) return finish();
    if (now >= next_) exchange(now);
  }

  void on_event(std::uint32_t events) override {
    if ((events & EPOLLOUT) != 0 && !write()) return;
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) read();
  }

  bool open() const { return static_cast<bool>(fd_); }
  bool ended() const { return ended_; }

 private:
  bool bulk() const { return load_.settings_.bulk_bytes > 0; }
  std::uint64_t goal() const { return bulk() ? kIdBytes + load_.settings_.bulk_bytes : goal_; }

  void open(std::int64_t now) {
    id_ = Id{.run = load_.settings_.run, .kind = Kind::stay, .sequence = load_.next_sequence_++};
    const Target& target = load_.targets_[id_.sequence % load_.targets_.size()];
    started_ = progress_ = next_ = now;
    sent_ = echoed_ = goal_ = 0;
    connected_ = false;
    ++load_.opened_;
    fd_ = dial(target, id_.sequence);
    if (!fd_) return fail(Fault::connect, std::strerror(errno));
    load_.poller_.add(fd_.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, *this);
  }

  void exchange(std::int64_t now) {
    next_ = std::max(next_ + load_.settings_.gap_us, now);
    progress_ = asked_ = now;
    goal_ += kIdBytes;
    write();
  }

  /// Byte `at` of what we send: the id first, then ids with a running number, or the pattern.
  std::size_t piece(std::uint64_t at, std::uint8_t* out, std::size_t room) const {
    const std::uint64_t offset = at % kIdBytes;
    if (!bulk() || at < kIdBytes) {
      Id one = id_;
      one.sequence += (at / kIdBytes) << 48;
      const IdBytes bytes = encode(one);
      const std::size_t count = std::min<std::size_t>(room, kIdBytes - offset);
      std::memcpy(out, bytes.data() + offset, count);
      return count;
    }
    const auto& bytes = pattern();
    const std::size_t from = (at + id_.sequence * 7919) % kPatternBytes;
    const std::size_t count = std::min({room, kPatternBytes - from, static_cast<std::size_t>(goal() - at)});
    std::memcpy(out, bytes.data() + from, count);
    return count;
  }

  bool write() {
    if (!connected_) {
      connected_ = true;
      if (!bulk()) goal_ = kIdBytes;
      asked_ = now_us();
    }
    while (sent_ < goal() && sent_ - echoed_ < kBulkWindow) {
      std::array<std::uint8_t, 65'536> bytes;
      const std::size_t count = piece(sent_, bytes.data(), bytes.size());
      const ssize_t done = ::send(fd_.get(), bytes.data(), count, MSG_NOSIGNAL);
      if (done < 0) {
        if (errno == EAGAIN || errno == ENOTCONN) return true;
        fail(sent_ == 0 ? Fault::connect : Fault::reset, std::strerror(errno));
        return false;
      }
      sent_ += static_cast<std::uint64_t>(done);
    }
    return true;
  }

  void read() {
    for (;;) {
      std::array<std::uint8_t, 65'536> bytes, expected;
      const ssize_t done = ::recv(fd_.get(), bytes.data(), bytes.size(), 0);
      if (done < 0) {
        if (errno == EAGAIN) break;
        return fail(sent_ == 0 ? Fault::connect : Fault::reset, std::strerror(errno));
      }
      if (done == 0) return fail(Fault::early_end, "after " + std::to_string(echoed_) + " bytes");
      if (echoed_ + static_cast<std::uint64_t>(done) > sent_) return fail(Fault::wrong, "more than was sent");
      for (std::size_t at = 0; at < static_cast<std::size_t>(done);) {
        const std::size_t count = piece(echoed_, expected.data(), static_cast<std::size_t>(done) - at);
        if (std::memcmp(bytes.data() + at, expected.data(), count) != 0) {
          return fail(Fault::wrong, "at byte " + std::to_string(echoed_));
        }
        at += count;
        echoed_ += count;
      }
      load_.bytes_ += static_cast<std::uint64_t>(done);
      progress_ = now_us();
    }
    if (echoed_ < sent_ || sent_ < goal()) {
      if (bulk()) write();
      return;
    }
    if (bulk()) return finish();
    if (asked_ != 0) {
      ++load_.exchanges_;
      load_.tally_.ok(now_us() - asked_);
      asked_ = 0;
    }
  }

  void finish() {
    if (bulk()) load_.tally_.ok(now_us() - started_);
    ended_ = true;
    fd_.reset();
  }

  void fail(Fault fault, std::string detail) {
    const std::string source = fd_ ? local_name(fd_.get()) : "";
    load_.tally_.fail({id_.sequence, fault, started_, now_us(), source, "", std::move(detail)});
    fd_.reset();
    ended_ = !load_.settings_.reopen;
    next_ = now_us() + kReopenAfterUs;
  }

  LongLoad& load_;
  Id id_;
  Fd fd_;
  std::int64_t started_ = 0, progress_ = 0, next_ = 0, asked_ = 0;
  std::uint64_t sent_ = 0, echoed_ = 0, goal_ = 0;
  bool connected_ = false, ended_ = false;
};

LongLoad::LongLoad(Poller& poller, Settings settings, std::vector<Target> targets)
    : poller_(poller), settings_(settings), targets_(std::move(targets)), next_sequence_(kFirstSequence) {
  for (std::size_t i = 0; i < settings_.streams && !targets_.empty(); ++i) {
    streams_.push_back(std::make_unique<Stream>(*this));
  }
}

LongLoad::~LongLoad() = default;

void LongLoad::tick(std::int64_t now) {
  for (auto& stream : streams_) stream->tick(now);
}

bool LongLoad::finished() const {
  return std::ranges::all_of(streams_,
                             [this](const auto& stream) { return stream->ended() || (stopping_ && !stream->open()); });
}

std::size_t LongLoad::open() const {
  return static_cast<std::size_t>(std::ranges::count_if(streams_, [](const auto& stream) { return stream->open(); }));
}

void LongLoad::write(JsonWriter& json) const {
  const auto number = [&json](const char* key, auto value) { json.key(key).number(static_cast<std::int64_t>(value)); };
  number("streams", streams_.size());
  number("open", open());
  number("opened", opened_);
  number("exchanges", exchanges_);
  number("bytes", bytes_);
  number("lost", tally_.failed());
  tally_.write(json);
}

}  // namespace ebb::loadgen
