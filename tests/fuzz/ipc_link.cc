// A channel, a book and an intake whose peer is the input: real sockets, messages with a good or a bad header, fds that
// match or do not. Whatever comes, both keep their counts and their bounds.
#include <fcntl.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "ipc/channel.h"
#include "ipc/offer_book.h"
#include "ipc/offer_intake.h"

namespace {

using namespace ebb;
using namespace ebb::ipc;

struct Host : OfferHost {
  std::optional<PortalKey> portal_of(LinkId, const OfferRecord& r) override {
    if (r.portal > 3) return std::nullopt;
    return r.portal;
  }
  Choice choose(PortalKey portal, const OfferRecord& r, ConstSpan) override {
    if (r.role == OfferRole::tunnel) return Choice::take(1);
    return portal == 1 ? Choice::take(0) : portal == 2 ? Choice::refuse(RefuseReason::bad_state) : Choice::park();
  }
  void release(std::uint64_t) override {}
  void own(OwnedOffer offer) override {
    if (!offer.fd) std::abort();
  }
};

void send_raw(int fd, ConstSpan bytes, int passed, unsigned count) {
  iovec part{const_cast<std::uint8_t*>(bytes.data()), bytes.size()};
  msghdr raw{};
  raw.msg_iov = &part;
  raw.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(64 * sizeof(int))] = {};
  if (count > 0) {
    raw.msg_control = control;
    raw.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* c = CMSG_FIRSTHDR(&raw);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (unsigned i = 0; i < count; ++i) std::memcpy(CMSG_DATA(c) + i * sizeof(int), &passed, sizeof(int));
  }
  (void)::sendmsg(fd, &raw, MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (size < 2) return 0;
  const bool as_worker = data[0] & 1;  // the side under test
  auto ends = ipc::pair();
  if (!ends) return 0;
  Channel channel(std::move(ends->first), Link::handoff, as_worker ? Role::worker : Role::broker,
                  as_worker ? Role::broker : Role::worker);
  TimePoint now{std::chrono::hours(1)};
  Host host;
  OfferIntake intake({.max_parked_per_portal = 4, .max_pending = 16}, host);
  std::size_t ended = 0, added = 0;
  OfferBook book({.generation = 1, .worker = 1}, [&](const OfferRecord&, OfferOutcome, Fd) { ++ended; });
  const LinkId id = intake.add_link(channel, 1);
  book.add_link(1, channel, 64);
  if (as_worker) {
    for (; added < 8; ++added) {
      OfferRecord record;
      Fd fd(::fcntl(null.get(), F_DUPFD_CLOEXEC, 0));
      Bytes none;
      if (!book.add(record, fd, none)) std::abort();
    }
    book.flush(now);
  }

  std::uint32_t seq = 0;
  for (std::size_t at = 1; at + 6 <= size && channel.open();) {
    Header header;
    header.seq = data[at] & 0x80 ? data[at + 1] : ++seq;
    header.flags = data[at] & 3;
    header.type = static_cast<std::uint16_t>(32 + data[at + 1] % 10);
    header.nrec = data[at + 2] % 40;
    header.nfds = data[at + 3] % 40;
    const unsigned passed = data[at] & 0x40 ? data[at + 4] % 64 : header.nfds;
    std::size_t length = data[at] & 0x20 ? data[at + 5] * std::size_t{8} : 0;
    if (length == 0) {  // the length that fits
      const Rule* rule = find_rule(Type{header.type}, Link::handoff, as_worker ? Role::broker : Role::worker);
      if (rule != nullptr) length = rule->fixed + std::size_t{rule->record} * header.nrec;
    }
    at += 6;
    Bytes message(sizeof header + length);
    const std::size_t have = std::min(length, size - at);
    if (have > 0) std::memcpy(message.data() + sizeof header, data + at, have);
    at += have;
    header.body_len = static_cast<std::uint32_t>(length);
    std::memcpy(message.data(), &header, sizeof header);
    send_raw(ends->second.get(), message, null.get(), passed);
    now += std::chrono::milliseconds(data[0]);
    const ReadEnd end = channel.on_readable([&](Message& m) {
      const FaultCode fault = as_worker ? book.on_message(1, m, now) : intake.on_message(id, m, now);
      if (fault != FaultCode::none) channel.send_fault(fault, "");
    });
    if (end == ReadEnd::fault || end == ReadEnd::eof) {
      book.on_link_fault(1);
      intake.on_link_fault(id);
      break;
    }
    intake.on_deadline(now);
    book.flush(now);
    if (intake.pending() > 16 || book.size() + ended != added) std::abort();
  }
  book.on_link_eof(1, now);
  book.flush(now + std::chrono::hours(1));
  book.flush(now + std::chrono::hours(2));
  if (book.size() != 0 || ended != added) std::abort();  // every connection has exactly one end
  return 0;
}
