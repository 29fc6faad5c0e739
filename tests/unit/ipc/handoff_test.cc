// Both sides of the handoff against each other, with every message delivered at a random time: workers and brokers come
// and die, tunnels come and go, links fill up. Whatever happens: no connection has two owners, and none is lost.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>

#include "ipc/offer_book.h"
#include "ipc/offer_intake.h"
#include "tests/unit/ipc/fake_link.h"

namespace ebb::ipc {
namespace {

using namespace std::chrono_literals;
using test::FakeLink;
using test::open_null;

class World {
 public:
  explicit World(unsigned seed) : random_(seed) {}

  void run(int steps) {
    for (int i = 0; i < 2; ++i) add_worker();
    add_broker();
    for (int i = 0; i < steps; ++i) step();
    settle();
  }

 private:
  struct Broker;
  struct Pipe {  // one link: both directions, as seen by the kernel
    FakeLink to_broker{Role::worker}, to_worker{Role::broker};
    LinkId at_broker = 0;
    bool worker_alive = true, broker_alive = true;
  };
  struct Worker {
    std::unique_ptr<OfferBook> book;
    std::map<std::uint64_t, std::shared_ptr<Pipe>> pipes;  // by broker generation
    bool alive = true;
    std::uint16_t id = 0;
  };
  struct Broker : OfferHost {
    World* world = nullptr;
    std::uint64_t gen = 0;
    bool alive = true;
    int room[3] = {};
    std::unique_ptr<OfferIntake> intake;
    std::vector<std::shared_ptr<Pipe>> pipes;

    std::optional<PortalKey> portal_of(LinkId, const OfferRecord& r) override { return r.portal; }
    Choice choose(PortalKey portal, const OfferRecord& r, ConstSpan) override {
      if (r.role == OfferRole::tunnel) return Choice::take(99);
      if (room[portal] == 0) return Choice::park();
      --room[portal];
      return Choice::take(portal);
    }
    void release(std::uint64_t ticket) override {
      if (ticket < 3) ++room[ticket];
    }
    void own(OwnedOffer offer) override { world->owned(offer.record.cookie); }
  };

  std::uint32_t pick(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }

  void owned(std::uint64_t id) {
    ASSERT_EQ(++owners_[id], 1) << "two owners of " << id;
    ASSERT_FALSE(returned_.contains(id)) << id << " was given back and owned";
  }

  void add_worker() {
    auto w = std::make_unique<Worker>();
    w->id = static_cast<std::uint16_t>(workers_.size() + 1);
    w->book = std::make_unique<OfferBook>(OfferBook::Options{.generation = 1, .worker = w->id},
                                          [this](const OfferRecord& r, OfferOutcome outcome, Fd) {
                                            ASSERT_NE(outcome, OfferOutcome::link_fault);
                                            ended_.insert(r.cookie);
                                            if (outcome == OfferOutcome::taken) {
                                              EXPECT_EQ(owners_[r.cookie], 1) << "TAKE without an owner";
                                            } else {
                                              returned_.insert(r.cookie);
                                            }
                                          });
    workers_.push_back(std::move(w));
    for (auto& b : brokers_) {
      if (b->alive) connect(*workers_.back(), *b);
    }
  }
  void add_broker() {
    auto b = std::make_unique<Broker>();
    b->world = this;
    b->gen = brokers_.size() + 1;
    b->intake = std::make_unique<OfferIntake>(OfferIntake::Options{.window = 8}, *b);
    brokers_.push_back(std::move(b));
    for (auto& w : workers_) {
      if (w->alive) connect(*w, *brokers_.back());
    }
  }
  void connect(Worker& w, Broker& b) {
    auto pipe = std::make_shared<Pipe>();
    pipe->at_broker = b.intake->add_link(pipe->to_worker, w.id, 8);
    ASSERT_TRUE(w.book->add_link(b.gen, pipe->to_broker, 8));
    w.pipes[b.gen] = pipe;
    b.pipes.push_back(pipe);
  }
  void new_connection(Worker& w) {
    OfferRecord record;
    record.cookie = next_id_++;
    record.portal = static_cast<std::uint16_t>(pick(3));
    record.role = pick(8) == 0 ? OfferRole::tunnel : OfferRole::visitor;
    Fd fd = open_null();
    Bytes blob(pick(4) == 0 ? 10 : 0);
    ASSERT_TRUE(w.book->add(record, fd, blob));
    by_worker_[record.cookie] = &w;
  }
  void kill_worker(Worker& w) {
    w.alive = false;
    for (auto& [gen, pipe] : w.pipes) {
      pipe->worker_alive = false;
      pipe->to_worker.dead = true;
    }
    w.book.reset();
  }
  void kill_broker(Broker& b) {
    b.alive = false;
    b.intake.reset();
    for (auto& pipe : b.pipes) {
      pipe->broker_alive = false;
      pipe->to_broker.dead = true;
      pipe->to_broker.queue.clear();  // unread: the kernel closes those fds, the worker has its own
    }
  }
  /// Delivers one message, or the end of the link once nothing is left of a dead peer.
  void deliver_to_worker(Worker& w, std::uint64_t gen) {
    auto pipe = w.pipes.at(gen);
    if (Message* m = pipe->to_worker.next()) {
      ASSERT_EQ(w.book->on_message(gen, *m, now_), FaultCode::none);
    } else if (!pipe->broker_alive) {
      w.book->on_link_eof(gen, now_);
      w.pipes.erase(gen);
    }
  }
  void deliver_to_broker(Broker& b, std::size_t i) {
    auto pipe = b.pipes[i];
    if (Message* m = pipe->to_broker.next()) {
      if (m->type() == Type::offer && pick(10) == 0) {  // out of fds
        m->fds.clear();
        m->fds_lost = true;
      }
      ASSERT_EQ(b.intake->on_message(pipe->at_broker, *m, now_), FaultCode::none);
    } else if (!pipe->worker_alive) {
      b.intake->on_link_eof(pipe->at_broker, now_);
      b.pipes.erase(b.pipes.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  void set_room(Broker& b, std::uint32_t portal, int room) {
    b.room[portal] = room;
    for (auto& pipe : b.pipes) {
      b.intake->set_tunnels(pipe->at_broker, static_cast<std::uint16_t>(portal), room > 0, 0, now_);
    }
    if (room > 0) b.intake->portal_up(portal, now_);
  }

  void step() {
    now_ += std::chrono::microseconds(pick(3000));
    Worker& w = *workers_[pick(static_cast<std::uint32_t>(workers_.size()))];
    Broker& b = *brokers_[pick(static_cast<std::uint32_t>(brokers_.size()))];
    const auto dice = pick(1000);
    if (dice < 2 && brokers_.size() < 12) {
      add_broker();
    } else if (dice < 4 && workers_.size() < 8) {
      add_worker();
    } else if (dice < 6 && b.alive) {
      kill_broker(b);
    } else if (dice < 7 && w.alive) {
      kill_worker(w);
    } else if (dice < 9 && b.alive) {
      b.intake->go_away(b.gen, now_);
    } else if (dice < 15 && w.alive) {
      w.book->on_broker_state(b.gen, BrokerPhase(1 + pick(3)));
    } else if (dice < 60 && b.alive) {
      set_room(b, pick(3), static_cast<int>(pick(4)));
    } else if (dice < 80 && b.alive && !b.pipes.empty()) {
      auto& pipe = b.pipes[pick(static_cast<std::uint32_t>(b.pipes.size()))];
      if (pipe->to_worker.full) b.intake->on_writable(pipe->at_broker, now_);
      pipe->to_worker.full = !pipe->to_worker.full;
    } else if (dice < 100 && w.alive && w.pipes.contains(b.gen)) {
      auto& pipe = *w.pipes.at(b.gen);
      if (pipe.to_broker.full) w.book->on_writable(b.gen);
      pipe.to_broker.full = !pipe.to_broker.full;
    } else if (dice < 300 && w.alive) {
      new_connection(w);
      if (pick(2) == 0) w.book->flush(now_);
    } else if (dice < 400 && w.alive) {
      w.book->flush(now_);
    } else if (dice < 430 && b.alive) {
      b.intake->on_deadline(now_);
    } else if (dice < 700 && w.alive && w.pipes.contains(b.gen)) {
      deliver_to_worker(w, b.gen);
    } else if (b.alive && !b.pipes.empty()) {
      deliver_to_broker(b, pick(static_cast<std::uint32_t>(b.pipes.size())));
    }
  }

  /// A healthy broker with plenty of room, and time: then everything must have found its end.
  void settle() {
    add_broker();
    Broker& last = *brokers_.back();
    for (int round = 0; round < 400; ++round) {
      now_ += 100ms;
      for (std::uint32_t p = 0; p < 3; ++p) set_room(last, p, 1000);
      for (auto& b : brokers_) {
        if (!b->alive) continue;
        for (auto& pipe : b->pipes) {
          pipe->to_broker.full = pipe->to_worker.full = false;
          b->intake->on_writable(pipe->at_broker, now_);
        }
        for (std::size_t i = b->pipes.size(); i-- > 0;) deliver_to_broker(*b, i);
        b->intake->on_deadline(now_);
      }
      for (auto& w : workers_) {
        if (!w->alive) continue;
        std::vector<std::uint64_t> gens;
        for (auto& [gen, pipe] : w->pipes) gens.push_back(gen);
        for (std::uint64_t gen : gens) {
          w->book->on_writable(gen);
          deliver_to_worker(*w, gen);
        }
        w->book->flush(now_);
      }
    }
    for (auto& w : workers_) {
      EXPECT_EQ(w->alive ? w->book->size() : 0, 0u) << "something is stuck";
    }
    for (auto& b : brokers_) {
      EXPECT_EQ(b->alive ? b->intake->pending() : 0, 0u);
      for (auto& pipe : b->pipes) EXPECT_EQ(pipe->to_broker.illegal + pipe->to_worker.illegal, 0);
    }
    for (const auto& [id, worker] : by_worker_) {
      if (worker->alive) {
        EXPECT_TRUE(ended_.contains(id)) << id << " was lost";
        EXPECT_EQ(returned_.contains(id), owners_[id] == 0) << id;
      }
    }
  }

  std::mt19937 random_;
  TimePoint now_{1h};
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Broker>> brokers_;
  std::uint64_t next_id_ = 1;
  std::map<std::uint64_t, int> owners_;
  std::map<std::uint64_t, Worker*> by_worker_;
  std::set<std::uint64_t> ended_, returned_;
};

TEST(Handoff, NobodyHasTwoOwnersAndNobodyIsLost) {
  for (unsigned seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    World(seed).run(4000);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace ebb::ipc
