#include "tests/chaos/loadgen/flow_load.h"

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <set>
#include <vector>

#include "common/base/json_writer.h"
#include "tests/chaos/loadgen/poller.h"

namespace ebb::loadgen {
namespace {

constexpr unsigned kBatch = 64;
constexpr std::size_t kRoom = 2048;
constexpr std::int64_t kLastAnswers = 2'000'000;  // us after the last datagram

struct Head {
  std::uint64_t run;
  std::uint64_t flow;
  std::uint64_t number;
};

struct Counts {
  std::uint64_t sent = 0, unsent = 0, answered = 0, disordered = 0, doubled = 0, foreign = 0;
  std::int64_t most_silent_us = 0;  // the longest time without any answer, while datagrams were sent
};

struct One {
  Fd fd;
  std::uint64_t sent = 0;
  std::uint64_t last = 0;        // number of its latest answer
  std::set<std::uint64_t> late;  // answered behind a later one
};

Fd udp_socket() {
  Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int bytes = 4 << 20;
  if (fd && ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0) {
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  }
  return fd;
}

class Flows {
 public:
  Flows(const FlowOptions& options, std::uint64_t run) : options_(options), run_(run), bytes_(options.bytes, 'x') {}

  bool open(const Target& target) {
    epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
    flows_.resize(options_.flows);
    for (std::size_t i = 0; i < flows_.size(); ++i) {
      flows_[i].fd = udp_socket();
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.u64 = i;
      if (!flows_[i].fd ||
          ::connect(flows_[i].fd.get(), reinterpret_cast<const sockaddr*>(&target.address), target.length) != 0 ||
          ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, flows_[i].fd.get(), &event) != 0) {
        std::perror("ebb_loadgen: flow");
        return false;
      }
    }
    return true;
  }

  void send_next() {
    One& one = flows_[next_];
    const Head head{run_, next_, ++one.sent};
    next_ = (next_ + 1) % flows_.size();
    std::memcpy(bytes_.data(), &head, sizeof head);
    if (::send(one.fd.get(), bytes_.data(), bytes_.size(), MSG_NOSIGNAL) >= 0) {
      ++counts.sent;
    } else {
      ++counts.unsent;
      --one.sent;
    }
  }

  void receive(int timeout_ms) {
    std::array<epoll_event, kBatch> events;
    const int ready = ::epoll_wait(epoll_.get(), events.data(), kBatch, timeout_ms);
    for (int i = 0; i < ready; ++i) read(events[static_cast<std::size_t>(i)].data.u64);
  }

  Counts counts;
  std::int64_t heard = 0;

 private:
  void read(std::uint64_t index) {
    One& one = flows_[index];
    std::array<char, 65536> bytes;
    for (ssize_t got = 0; (got = ::recv(one.fd.get(), bytes.data(), bytes.size(), 0)) >= 0;) {
      Head head{};
      std::memcpy(&head, bytes.data(), std::min(static_cast<std::size_t>(got), sizeof head));
      heard = now_us();
      if (got != static_cast<ssize_t>(bytes_.size()) || head.run != run_ || head.flow != index) {
        ++counts.foreign;
        continue;
      }
      if (head.number > one.last) {
        one.last = head.number;
        ++counts.answered;
      } else if (head.number == one.last || !one.late.insert(head.number).second) {
        ++counts.doubled;
      } else {
        ++counts.disordered;
        ++counts.answered;
      }
    }
  }

  const FlowOptions& options_;
  std::uint64_t run_;
  std::string bytes_;
  Fd epoll_;
  std::vector<One> flows_;
  std::size_t next_ = 0;
};

}  // namespace

int run_flow_load(const FlowOptions& options, const Target& target) {
  raise_open_files();
  FlowOptions own = options;
  own.bytes = std::clamp(own.bytes, sizeof(Head), kRoom);
  Flows flows(own, static_cast<std::uint64_t>(now_us()));
  if (!flows.open(target)) return 1;
  const std::int64_t begin = now_us();
  const auto total = static_cast<std::uint64_t>(own.rate * own.seconds);
  flows.heard = begin;
  for (std::uint64_t due = 0, done = 0; done < total;) {
    const std::int64_t now = now_us();
    due = std::min(total, static_cast<std::uint64_t>(static_cast<double>(now - begin) * own.rate / 1e6));
    for (unsigned n = 0; done < due && n < kBatch; ++n, ++done) flows.send_next();
    flows.receive(done < due ? 0 : 1);
    flows.counts.most_silent_us = std::max(flows.counts.most_silent_us, now - flows.heard);
  }
  const std::int64_t last = now_us();
  while (flows.counts.answered < flows.counts.sent && now_us() < last + kLastAnswers) flows.receive(10);
  JsonWriter json;
  const auto number = [&](const char* key, std::uint64_t value) {
    json.key(key).number(static_cast<std::int64_t>(value));
  };
  json.object().key("result").object();
  number("sent", flows.counts.sent);
  number("unsent", flows.counts.unsent);
  number("answered", flows.counts.answered);
  number("disordered", flows.counts.disordered);
  number("doubled", flows.counts.doubled);
  number("foreign", flows.counts.foreign);
  json.key("most_silent_us").number(flows.counts.most_silent_us);
  json.key("took_us").number(last - begin);
  json.end().end();
  print_line(json.str());
  return 0;
}

int run_udp_origin(std::uint16_t port) {
  const Fd fd = udp_socket();
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    std::perror("ebb_loadgen: udp origin");
    return 1;
  }
  std::vector<char> bytes(kBatch * kRoom);
  std::array<mmsghdr, kBatch> messages{};
  std::array<iovec, kBatch> pieces{};
  std::array<sockaddr_in, kBatch> names{};
  std::set<std::uint64_t> peers;
  std::uint64_t received = 0;
  print_line("{\"ready\":true}");
  for (;;) {
    std::array<pollfd, 2> waiting{pollfd{fd.get(), POLLIN, 0}, pollfd{STDIN_FILENO, POLLIN, 0}};
    ::poll(waiting.data(), waiting.size(), 1000);
    if (waiting[1].revents != 0) break;
    for (std::size_t i = 0; i < kBatch; ++i) {
      pieces[i] = {bytes.data() + i * kRoom, kRoom};
      messages[i].msg_hdr = {&names[i], sizeof names[i], &pieces[i], 1, nullptr, 0, 0};
    }
    const int got = ::recvmmsg(fd.get(), messages.data(), kBatch, 0, nullptr);
    if (got <= 0) continue;
    received += static_cast<unsigned>(got);
    for (std::size_t i = 0; i < static_cast<std::size_t>(got); ++i) {
      pieces[i].iov_len = messages[i].msg_len;
      peers.insert(std::uint64_t{ntohl(names[i].sin_addr.s_addr)} << 16 | ntohs(names[i].sin_port));
    }
    ::sendmmsg(fd.get(), messages.data(), static_cast<unsigned>(got), MSG_NOSIGNAL);
  }
  JsonWriter json;
  json.object().key("result").object();
  json.key("received").number(static_cast<std::int64_t>(received));
  json.key("peers").number(static_cast<std::int64_t>(peers.size()));
  json.end().end();
  print_line(json.str());
  return 0;
}

}  // namespace ebb::loadgen
