#include "tests/chaos/loadgen/origin.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <vector>

#include "tests/chaos/loadgen/sockets.h"

namespace ebb::loadgen {

namespace {

constexpr std::uint64_t kMostSequences = 16u << 20;  // a byte each
constexpr std::size_t kDuplicatesKept = 20;

}  // namespace

class Origin::Connection final : public Watcher {
 public:
  Connection(Origin& origin, Fd fd) : origin_(origin), fd_(std::move(fd)) {
    origin_.poller_.add(fd_.get(), EPOLLIN | EPOLLRDHUP, *this);
  }

  void on_event(std::uint32_t events) override {
    if ((events & EPOLLOUT) != 0 && !flush()) return;
    if ((events & ~static_cast<std::uint32_t>(EPOLLOUT)) != 0 && pending_.empty()) read();
  }

 private:
  void read() {
    std::array<std::uint8_t, 65'536> bytes;
    const ssize_t done = ::recv(fd_.get(), bytes.data(), bytes.size(), 0);
    if (done < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (done <= 0) {
      if (got_ < kIdBytes) ++origin_.cut_;
      return close();
    }
    const auto count = static_cast<std::size_t>(done);
    origin_.bytes_ += count;
    if (got_ < kIdBytes) {
      const std::size_t part = std::min(count, kIdBytes - got_);
      std::copy_n(bytes.data(), part, id_.data() + got_);
      got_ += part;
      if (got_ < kIdBytes) return;
      const auto id = decode(id_);
      if (!id) {
        ++origin_.no_id_;
        return close();
      }
      origin_.note(*id);
      once_ = id->kind == Kind::once;
      pending_.assign(id_.begin(), id_.end());
      pending_.insert(pending_.end(), bytes.data() + part, bytes.data() + count);
    } else {
      pending_.assign(bytes.data(), bytes.data() + count);
    }
    flush();
  }

  /// False when the connection has gone.
  bool flush() {
    while (sent_ < pending_.size()) {
      const ssize_t done = ::send(fd_.get(), pending_.data() + sent_, pending_.size() - sent_, MSG_NOSIGNAL);
      if (done < 0) {
        if (errno == EAGAIN) {
          if (!waiting_) origin_.poller_.modify(fd_.get(), EPOLLOUT, *this);
          waiting_ = true;
          return true;
        }
        close();
        return false;
      }
      sent_ += static_cast<std::size_t>(done);
    }
    pending_.clear();
    sent_ = 0;
    if (waiting_) origin_.poller_.modify(fd_.get(), EPOLLIN | EPOLLRDHUP, *this);
    waiting_ = false;
    if (once_) {
      close();
      return false;
    }
    return true;
  }

  void close() {
    fd_.reset();
    origin_.release(*this);
  }

  Origin& origin_;
  Fd fd_;
  IdBytes id_{};
  std::size_t got_ = 0, sent_ = 0;
  std::vector<std::uint8_t> pending_;  // to be echoed; nothing is read while there is any
  bool once_ = false, waiting_ = false;
};

Origin::Origin(Poller& poller, std::uint16_t port, bool reuse_port)
    : poller_(poller), listener_(listen_on(port, false, reuse_port)) {
  poller_.add(listener_.get(), EPOLLIN, *this);
}

Origin::~Origin() = default;

void Origin::on_event(std::uint32_t) {
  ended_.clear();
  for (int i = 0; i < 64; ++i) {
    Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) return;
    const int on = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ++accepted_;
    ++open_;
    auto made = std::make_unique<Connection>(*this, std::move(fd));
    auto* key = made.get();
    connections_.emplace(key, std::move(made));
  }
}

void Origin::note(const Id& id) {
  if (id.kind == Kind::stay) {
    ++long_;
    return;
  }
  ++ids_;
  if (id.sequence >= kMostSequences) return;
  if (id.sequence >= seen_.size()) seen_.resize(std::max<std::size_t>(id.sequence + 1, seen_.size() * 2));
  auto& times = seen_[id.sequence];
  if (times > 0) {
    ++duplicate_count_;
    if (duplicates_.size() < kDuplicatesKept) duplicates_.push_back(id.sequence);
  }
  if (times < 3) ++times;
}

int Origin::times_seen(std::uint64_t sequence) const { return sequence < seen_.size() ? seen_[sequence] : 0; }

void Origin::release(Connection& connection) {
  const auto found = connections_.find(&connection);
  ended_.push_back(std::move(found->second));
  connections_.erase(found);
  --open_;
}

void Origin::write(JsonWriter& json) const {
  const auto number = [&json](const char* key, auto value) { json.key(key).number(static_cast<std::int64_t>(value)); };
  number("accepted", accepted_);
  number("open", open_);
  number("ids", ids_);
  number("long", long_);
  number("duplicates", duplicate_count_);
  json.key("duplicate_sequences").array();
  for (const std::uint64_t sequence : duplicates_) json.number(static_cast<std::int64_t>(sequence));
  json.end();
  number("no_id", no_id_);
  number("cut", cut_);
  number("bytes", bytes_);
}

}  // namespace ebb::loadgen
