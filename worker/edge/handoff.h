// The worker's end of every handoff link: offers out, answers in, credit. The state machine is ipc/offer_book.h; this
// gives it descriptors and time.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "common/net/poll.h"
#include "ipc/offer_book.h"

namespace ebb::edge {

class Handoff {
 public:
  /// `ended`: how an offer ended, with the descriptor when it is ours again. `changed`: accepting() may have.
  struct Owner {
    ipc::OfferBook::Ended ended;
    std::function<void()> changed;
  };
  Handoff(net::UvLoop& loop, Owner owner);
  /// `tell`: a link to this broker generation was closed because either end broke the protocol. What was offered there
  /// and judged by us is given up, the rest goes to the next link: somebody has to make one.
  void on_fault(std::function<void(std::uint64_t broker_gen)> tell) { fault_ = std::move(tell); }
  Handoff(const Handoff&) = delete;
  Handoff& operator=(const Handoff&) = delete;
  ~Handoff();

  /// LINK_ADD, in a worker of generation `generation`.
  void add_link(const ipc::LinkAdd& link, Fd end, std::uint64_t generation);
  void on_broker_state(const ipc::BrokerState& state);
  void send_goaway();

  /// Offers a connection, now if there is room. One that was accepted and not sent dies with this process, so none is
  /// kept back to share a message with others: 32 in one would save 2 us each, a hundredth of
  /// what a connection costs. False: it could not be taken over, and `fd` is untouched.
  bool offer(const ipc::OfferRecord& record, Fd& fd, Bytes& blob);
  /// There is a broker with credit.
  bool accepting() const { return book_ && book_->accepting(); }
  std::size_t pending() const { return book_ ? book_->size() : 0; }
  std::size_t unacked() const { return book_ ? book_->unacked() : 0; }
  std::size_t links() const { return links_.size(); }

 private:
  struct Link;
  void read(Link& link);
  void write(Link& link);
  void drop(Link& link);
  void settle();

  net::UvLoop& loop_;
  Owner owner_;
  std::function<void(std::uint64_t)> fault_;
  std::optional<ipc::OfferBook> book_;  // from the first link on, which says who we are
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<std::unique_ptr<Link>> dropped_;  // destroyed at the end of the wake-up
  net::Timer deadline_;
  net::Deferred settle_;
};

}  // namespace ebb::edge
