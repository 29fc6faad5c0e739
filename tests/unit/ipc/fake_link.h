// One direction of a handoff link in memory: keeps the table's rules, can be full or dead, delivers when told to.
#pragma once

#include <fcntl.h>

#include <deque>
#include <memory>
#include <vector>

#include "ipc/channel.h"

namespace ebb::ipc::test {

struct Received {
  Bytes storage;
  Message message;
};

class FakeLink final : public Sender {
 public:
  explicit FakeLink(Role sender) : out_(Link::handoff, sender) {}

  Sent send(Type type, ConstSpan body, std::span<const int> fds, std::uint8_t nrec, std::uint8_t extra) override {
    if (dead) return Sent::dead;
    Header header;
    header.flags = static_cast<std::uint8_t>(flags::critical | extra);
    header.type = static_cast<std::uint16_t>(type);
    header.nfds = static_cast<std::uint8_t>(fds.size());
    header.nrec = nrec;
    header.seq = out_.next_seq();
    header.body_len = static_cast<std::uint32_t>(body.size());
    if (out_.accept(header, body) != FaultCode::none) {
      ++illegal;
      return Sent::illegal;
    }
    auto item = std::make_unique<Received>();
    item->storage.assign(body.begin(), body.end());
    item->message.header = header;
    item->message.body = item->storage;
    for (int fd : fds) item->message.fds.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    queue.push_back(std::move(item));
    return Sent::sent;
  }
  Sent try_send(Type type, ConstSpan body, std::span<const int> fds, std::uint8_t nrec) override {
    if (full && !dead) return Sent::full;
    return send(type, body, fds, nrec, 0);
  }

  /// The oldest message; it stays valid until the next call. Null when there is none.
  Message* next() {
    if (queue.empty()) return nullptr;
    last_ = std::move(queue.front());
    queue.pop_front();
    return &last_->message;
  }
  /// Drops messages up to one of this type and returns that; null when there is none.
  Message* next(Type type) {
    for (Message* m = next(); m != nullptr; m = next()) {
      if (m->type() == type) return m;
    }
    return nullptr;
  }

  std::deque<std::unique_ptr<Received>> queue;
  bool full = false, dead = false;
  int illegal = 0;

 private:
  Direction out_;
  std::unique_ptr<Received> last_;
};

inline Fd open_null() { return Fd(::open("/dev/null", O_RDWR | O_CLOEXEC)); }

/// A message as a peer would send it, for on_message().
template <class Record>
Received make_message(Type type, std::span<const Record> records) {
  Received out;
  const ConstSpan bytes = bytes_of_records(records);
  out.storage.assign(bytes.begin(), bytes.end());
  out.message.header.type = static_cast<std::uint16_t>(type);
  out.message.header.nrec = static_cast<std::uint8_t>(records.size());
  out.message.header.body_len = static_cast<std::uint32_t>(out.storage.size());
  out.message.body = out.storage;
  return out;
}

}  // namespace ebb::ipc::test
