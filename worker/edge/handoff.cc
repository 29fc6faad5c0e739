#include "worker/edge/handoff.h"

#include <algorithm>

#include "common/base/log.h"
#include "ipc/channel.h"

namespace ebb::edge {
namespace {

constexpr Duration kRefsRetry = std::chrono::milliseconds(5);  // too many descriptors in flight: see Channel

}  // namespace

struct Handoff::Link {
  Link(Fd end, std::uint64_t broker)
      : broker_gen(broker), channel(std::move(end), ipc::Link::handoff, ipc::Role::worker, ipc::Role::broker) {}
  std::uint64_t broker_gen;
  ipc::Channel channel;
  std::unique_ptr<net::Poll> poll;
  bool writing = false;
  bool blamed = false;  // the broker says that we broke the protocol; it closes the link
};

Handoff::Handoff(net::UvLoop& loop, Owner owner)
    : loop_(loop),
      owner_(std::move(owner)),
      deadline_([](void* self) { static_cast<Handoff*>(self)->settle(); }, this),
      settle_([](void* self) { static_cast<Handoff*>(self)->settle(); }, this) {}

Handoff::~Handoff() {
  for (auto& link : links_) link->poll.reset();
}

void Handoff::add_link(const ipc::LinkAdd& add, Fd end, std::uint64_t generation) {
  if (!book_) {
    ipc::OfferBook::Options options;
    options.generation = static_cast<std::uint16_t>(generation);
    options.worker = static_cast<std::uint16_t>(add.worker_id);
    book_.emplace(options, owner_.ended);
  }
  auto link = std::make_unique<Link>(std::move(end), add.broker_gen);
  Link& added = *link;
  added.poll = net::Poll::make(loop_, added.channel.fd(), [this, &added](bool readable, bool writable) {
    if (writable && added.writing) write(added);
    if (readable) read(added);
  });
  if (added.poll == nullptr || !book_->add_link(add.broker_gen, added.channel, add.credits)) {
    log_event(log::Level::error, "edge", "link to the broker could not be used", kv("broker", add.broker_gen));
    return;
  }
  added.poll->watch(true, false);
  links_.push_back(std::move(link));
  loop_.defer(settle_);
}

void Handoff::on_broker_state(const ipc::BrokerState& state) {
  if (book_) book_->on_broker_state(state.broker_gen, state.state);
  loop_.defer(settle_);
}

void Handoff::send_goaway() {
  if (book_) book_->send_goaway();
  loop_.defer(settle_);
}

bool Handoff::offer(const ipc::OfferRecord& record, Fd& fd, Bytes& blob) {
  if (!book_ || !book_->offer(record, fd, blob, loop_.now())) return false;
  loop_.defer(settle_);
  return true;
}

void Handoff::read(Link& link) {
  if (!link.poll || !book_) return;
  loop_.defer(settle_);
  const std::uint64_t broker = link.broker_gen;
  const auto end = link.channel.on_readable([&](const ipc::Message& message) {
    if (message.type() == ipc::Type::fault) {
      link.blamed = true;
      log_event(log::Level::error, "edge", "the broker closes its link after a fault",
                kv("fault", ipc::name_of(message.as<ipc::Fault>().code)), kv("broker", broker));
    }
    const auto fault = book_->on_message(broker, message, loop_.now());
    if (fault != ipc::FaultCode::none) link.channel.send_fault(fault, ipc::name_of(fault));
  });
  if (end == ipc::ReadEnd::drained || end == ipc::ReadEnd::busy || end == ipc::ReadEnd::starved) return;
  const bool faulted = !link.channel.open() || link.blamed;
  if (link.channel.open()) {
    book_->on_link_eof(broker, loop_.now());  // the peer is gone and everything it said is read
  } else {
    log_event(log::Level::error, "edge", "link to the broker was closed after a fault",
              kv("fault", ipc::name_of(link.channel.fault())), kv("broker", broker));
    book_->on_link_fault(broker);
  }
  drop(link);
  if (faulted && fault_) fault_(broker);
}

void Handoff::write(Link& link) {
  if (!book_) return;
  link.channel.on_writable();
  book_->on_writable(link.broker_gen);
  loop_.defer(settle_);
}

void Handoff::drop(Link& link) {
  link.poll.reset();
  const auto at = std::ranges::find(links_, &link, &std::unique_ptr<Link>::get);
  dropped_.push_back(std::move(*at));
  links_.erase(at);
}

void Handoff::settle() {
  dropped_.clear();
  if (!book_) return;
  book_->flush(loop_.now());
  auto due = book_->next_deadline();
  for (auto& link : links_) {
    if (link->channel.wants_retry()) {
      link->channel.on_writable();
      due = std::min(due.value_or(TimePoint::max()), loop_.now() + kRefsRetry);
    }
    const bool writing = link->channel.wants_write();
    if (writing != link->writing) link->poll->watch(true, writing);
    link->writing = writing;
  }
  if (due) {
    loop_.arm_at(deadline_, *due);
  } else {
    deadline_.disarm();
  }
  owner_.changed();
}

}  // namespace ebb::edge
