// ebb_link: a network path between two TUN devices, with a delay, a rate and a queue. The kernel's TCP runs over it as
// over a real one; where there is no netem qdisc this is what makes a path long.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <span>
#include <string_view>
#include <vector>

namespace {

constexpr const char* kUsage =
    R"(ebb_link FD FD --delay MICROSECONDS --rate BYTES_PER_SECOND --queue BYTES

FD: two open TUN devices without packet information. Both directions are alike: a packet waits for those before it (at
most --queue bytes of them, else it is dropped), passes at --rate, and arrives --delay later. A line on stdin: what was
carried and dropped since the line before, in JSON. The end of stdin: leaves.
)";

constexpr std::size_t kMostPacket = 65'536;
constexpr std::size_t kBurst = 64;  // packets read or written per turn and direction

struct Settings {
  std::int64_t delay_ns = 0;
  double ns_per_byte = 0;
  std::int64_t queue_ns = 0;  // the queue as the time that it takes to pass
};

std::int64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

/// From one device to the other.
class Direction {
 public:
  Direction(int from, int to, const Settings& settings) : from_(from), to_(to), settings_(settings) {}

  void read(std::int64_t now) {
    static std::array<std::uint8_t, kMostPacket> packet;
    for (std::size_t i = 0; i < kBurst; ++i) {
      const ssize_t got = ::read(from_, packet.data(), packet.size());
      if (got <= 0) return;
      take({packet.data(), static_cast<std::size_t>(got)}, now);
    }
  }

  void deliver(std::int64_t now) {
    for (std::size_t i = 0; i < kBurst && !waiting_.empty() && waiting_.front().arrives_ns <= now; ++i) {
      std::vector<std::uint8_t>& bytes = waiting_.front().bytes;
      const ssize_t done = ::write(to_, bytes.data(), bytes.size());
      if (done < 0 && errno == EAGAIN) return;
      bytes_ += bytes.size();
      ++packets_;
      spare_.push_back(std::move(bytes));
      waiting_.pop_front();
    }
  }

  /// When the next packet arrives; -1 = none is under way.
  std::int64_t next_ns() const { return waiting_.empty() ? -1 : waiting_.front().arrives_ns; }

  void report(const char* key) {
    std::printf("\"%s\":{\"packets\":%llu,\"bytes\":%llu,\"dropped\":%llu}", key,
                static_cast<unsigned long long>(packets_), static_cast<unsigned long long>(bytes_),
                static_cast<unsigned long long>(dropped_));
    packets_ = bytes_ = dropped_ = 0;
  }

 private:
  struct Packet {
    std::int64_t arrives_ns = 0;
    std::vector<std::uint8_t> bytes;
  };

  void take(std::span<const std::uint8_t> packet, std::int64_t now) {
    if (free_ns_ < now) free_ns_ = now;
    if (free_ns_ - now > settings_.queue_ns) {
      ++dropped_;
      return;
    }
    free_ns_ += static_cast<std::int64_t>(static_cast<double>(packet.size()) * settings_.ns_per_byte);
    std::vector<std::uint8_t> bytes;
    if (!spare_.empty()) {
      bytes = std::move(spare_.back());
      spare_.pop_back();
    }
    bytes.assign(packet.begin(), packet.end());
    waiting_.push_back({free_ns_ + settings_.delay_ns, std::move(bytes)});
  }

  int from_, to_;
  const Settings& settings_;
  std::int64_t free_ns_ = 0;  // when the packets accepted so far have passed the narrow place
  std::deque<Packet> waiting_;
  std::vector<std::vector<std::uint8_t>> spare_;
  std::uint64_t packets_ = 0, bytes_ = 0, dropped_ = 0;
};

bool read_options(int argc, char** argv, Settings& settings) {
  double delay_us = -1, rate = 0, queue = -1;
  for (int i = 3; i + 1 < argc; i += 2) {
    const std::string_view word = argv[i];
    const double value = std::strtod(argv[i + 1], nullptr);
    if (word == "--delay") delay_us = value;
    if (word == "--rate") rate = value;
    if (word == "--queue") queue = value;
  }
  if (argc != 9 || delay_us < 0 || rate <= 0 || queue < 0) return false;
  settings = {.delay_ns = static_cast<std::int64_t>(delay_us * 1e3),
              .ns_per_byte = 1e9 / rate,
              .queue_ns = static_cast<std::int64_t>(queue * 1e9 / rate)};
  return true;
}

void run(int near, int far, const Settings& settings) {
  Direction out(near, far, settings), back(far, near, settings);
  for (;;) {
    const std::int64_t before = now_ns();
    std::int64_t until = -1;
    for (const std::int64_t next : {out.next_ns(), back.next_ns()}) {
      if (next >= 0 && (until < 0 || next < until)) until = next;
    }
    const std::int64_t pause = until < before ? 0 : until - before;
    const timespec timeout{.tv_sec = pause / 1'000'000'000, .tv_nsec = pause % 1'000'000'000};
    std::array<pollfd, 3> fds{pollfd{near, POLLIN, 0}, pollfd{far, POLLIN, 0}, pollfd{STDIN_FILENO, POLLIN, 0}};
    if (::ppoll(fds.data(), fds.size(), until < 0 ? nullptr : &timeout, nullptr) < 0 && errno != EINTR) return;
    const std::int64_t now = now_ns();
    if ((fds[0].revents & POLLIN) != 0) out.read(now);
    if ((fds[1].revents & POLLIN) != 0) back.read(now);
    out.deliver(now);
    back.deliver(now);
    if (fds[2].revents != 0) {
      std::array<char, 64> line;
      if (::read(STDIN_FILENO, line.data(), line.size()) <= 0) return;
      std::printf("{");
      out.report("out");
      std::printf(",");
      back.report("back");
      std::printf("}\n");
      std::fflush(stdout);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  Settings settings;
  if (!read_options(argc, argv, settings)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  const int near = std::atoi(argv[1]);
  const int far = std::atoi(argv[2]);
  for (const int fd : {near, far}) ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
  run(near, far, settings);
  return 0;
}
