#include "ipc/offer_intake.h"

#include <algorithm>
#include <span>
#include <utility>

namespace ebb::ipc {
namespace {

std::optional<TimePoint> sooner(std::optional<TimePoint> a, std::optional<TimePoint> b) {
  if (!a) return b;
  return b ? std::min(*a, *b) : *a;
}

/// Sends records in messages of at most kMaxHids; what found no room stays in the vector.
template <class Record>
Sent send_all(Sender& link, Type type, std::vector<Record>& records) {
  std::size_t done = 0;
  Sent sent = Sent::sent;
  while (done < records.size()) {
    const auto part = std::span<const Record>(records).subspan(done, std::min(kMaxHids, records.size() - done));
    sent = link.send(type, bytes_of_records(part), {}, static_cast<std::uint8_t>(part.size()));
    if (sent == Sent::full) break;
    done += part.size();  // dead or illegal: nobody will ever read it
  }
  records.erase(records.begin(), records.begin() + static_cast<std::ptrdiff_t>(done));
  return sent;
}

}  // namespace

OfferIntake::OfferIntake(Options options, OfferHost& host) : options_(options), host_(host) {}

LinkId OfferIntake::add_link(Sender& link, std::uint16_t worker_id, std::uint32_t credits) {
  const LinkId id = next_link_++;
  LinkState& state = links_[id];
  state.sender = &link;
  state.worker = worker_id;
  state.told_window = credits;
  if (going_away_) link.send(Type::goaway, bytes_of(Gen{goaway_gen_}));
  return id;
}

FaultCode OfferIntake::on_message(LinkId id, Message& message, TimePoint now) {
  const auto it = links_.find(id);
  if (it == links_.end() || it->second.sender == nullptr) return FaultCode::unexpected;
  FaultCode fault = FaultCode::none;
  if (message.type() == Type::offer) fault = on_offer(id, it->second, message, now);
  if (message.type() == Type::recall) on_recall(it->second, message);
  if (fault == FaultCode::none) flush(it->second, now);
  return fault;
}

FaultCode OfferIntake::on_offer(LinkId id, LinkState& link, Message& message, TimePoint now) {
  constexpr std::size_t kMaxAnswers = 65536;  // unsent ones, to a worker that offers and does not read
  if (link.refusals.size() + link.recalled.size() > kMaxAnswers) return FaultCode::bad_count;
  std::vector<Order> fresh;
  const auto records = message.records<OfferRecord>();
  const ConstSpan blob = message.body.subspan(records.size() * sizeof(OfferRecord));  // of the only record, or empty
  for (std::size_t i = 0; i < records.size(); ++i) {
    const OfferRecord& record = records[i];
    if (worker_of(record.hid) != link.worker || link.offers.contains(record.hid)) return FaultCode::unexpected;
    const auto refuse_now = [&](RefuseReason reason) {
      if (!message.fds_lost) message.fds[i].reset();
      link.refusals.push_back({record.hid, reason, 0});
      ++counts_.refused[static_cast<std::size_t>(reason)];
    };
    if (message.fds_lost) {
      refuse_now(RefuseReason::ctrunc);
      continue;
    }
    const auto portal = host_.portal_of(id, record);
    if (!portal) {
      refuse_now(RefuseReason::no_portal);
      continue;
    }
    if (pending_.size() >= options_.max_pending || blob_bytes_ + blob.size() > options_.max_blob_bytes) {
      refuse_now(RefuseReason::overload);
      continue;
    }
    const Order order = next_order_++;
    link.offers.emplace(record.hid, order);
    by_portal_[*portal].insert(order);
    blob_bytes_ += blob.size();
    pending_.emplace(order,
                     Pending{id, *portal, record, std::move(message.fds[i]), Bytes(blob.begin(), blob.end()), now});
    fresh.push_back(order);
  }
  settle(fresh, false, now);
  return FaultCode::none;
}

/// A hid that is not here was taken or refused, and that answer is on its way (crossed).
void OfferIntake::on_recall(LinkState& link, const Message& message) {
  for (Hid hid : message.records<Hid>()) {
    const auto it = link.offers.find(hid);
    if (it == link.offers.end()) continue;
    remove(it->second);  // closes our copy
    link.recalled.push_back(hid);
    ++counts_.recalled;
  }
}

void OfferIntake::settle(const std::vector<Order>& orders, bool stop_at_park, TimePoint now) {
  std::map<LinkId, std::vector<Chosen>> chosen;
  for (Order order : orders) {
    const auto it = pending_.find(order);
    if (it == pending_.end()) continue;
    const Pending& offer = it->second;
    LinkState& link = links_.at(offer.link);
    if (link.retry_at) {  // TAKE could not be sent anyway
      link.unsent.insert(order);
      continue;
    }
    const Choice choice = host_.choose(offer.portal, offer.record, offer.blob);
    const bool tunnel = offer.record.role == OfferRole::tunnel;
    if (choice.kind == Choice::Kind::refuse) {
      refuse(order, choice.reason);
    } else if (choice.kind == Choice::Kind::take) {
      std::vector<Chosen>& batch = chosen[offer.link];
      batch.push_back({order, choice.ticket});
      if (batch.size() == kMaxHids) take(batch, now);
    } else if (tunnel || going_away_) {
      refuse(order, RefuseReason::draining);
    } else if (parked(offer.portal) > options_.max_parked_per_portal) {
      refuse(order, RefuseReason::overload);
    } else {
      link.unsent.erase(order);
      if (stop_at_park) break;
    }
  }
  for (auto& [id, batch] : chosen) take(batch, now);
}

/// TAKE, then ownership: never the other way round (7.1). All of `batch` belongs to one link.
void OfferIntake::take(std::vector<Chosen>& batch, TimePoint now) {
  if (batch.empty()) return;
  LinkState& link = links_.at(pending_.at(batch.front().order).link);
  if (link.sender != nullptr) {
    std::vector<Hid> hids;
    hids.reserve(batch.size());
    for (const Chosen& c : batch) hids.push_back(pending_.at(c.order).record.hid);
    const Sent sent = link.retry_at ? Sent::full
                                    : link.sender->try_send(Type::take, bytes_of_records(std::span<const Hid>(hids)),
                                                            {}, static_cast<std::uint8_t>(hids.size()));
    if (sent == Sent::full || sent == Sent::illegal) {
      link.retry_at = now + options_.retry;
      for (const Chosen& c : std::exchange(batch, {})) {
        link.unsent.insert(c.order);
        host_.release(c.ticket);
      }
      return;
    }
  }
  // Sent, or the worker is dead: then we are the only owner left.
  for (const Chosen& c : std::exchange(batch, {})) {
    Pending offer = remove(c.order);
    ++counts_.taken;
    host_.own({offer.link, offer.portal, offer.record, std::move(offer.fd), std::move(offer.blob), c.ticket,
               now - offer.came});
  }
}

void OfferIntake::refuse(Order order, RefuseReason reason) {
  const Pending offer = remove(order);
  LinkState& link = links_.at(offer.link);
  if (link.sender != nullptr) link.refusals.push_back({offer.record.hid, reason, 0});
  ++counts_.refused[static_cast<std::size_t>(reason)];
}

OfferIntake::Pending OfferIntake::remove(Order order) {
  auto node = pending_.extract(order);
  Pending offer = std::move(node.mapped());
  LinkState& link = links_.at(offer.link);
  link.offers.erase(offer.record.hid);
  link.unsent.erase(order);
  const auto portal = by_portal_.find(offer.portal);
  portal->second.erase(order);
  if (portal->second.empty()) by_portal_.erase(portal);
  blob_bytes_ -= offer.blob.size();
  return offer;
}

void OfferIntake::flush(LinkState& link, TimePoint now) {
  if (link.sender == nullptr || link.retry_at) return;
  // PARKED offers use up no credit: the window is raised by their number (6.4).
  const auto window = options_.window == 0 ? 0 : options_.window + static_cast<std::uint32_t>(link.offers.size());
  bool room = send_all(*link.sender, Type::refuse, link.refusals) != Sent::full &&
              send_all(*link.sender, Type::recalled, link.recalled) != Sent::full;
  if (room && window != link.told_window) {
    room = link.sender->send(Type::credit, bytes_of(Credit{window, 0})) != Sent::full;
    if (room) link.told_window = window;
  }
  if (room && !link.dirty.empty() && (!link.tunnels_sent || now - *link.tunnels_sent >= options_.tunnels_pace)) {
    room = send_tunnels(link);
    if (room) link.tunnels_sent = now;
  }
  if (!room) link.retry_at = now + options_.retry;
}

bool OfferIntake::send_tunnels(LinkState& link) {
  constexpr std::size_t kMaxRecords = 255;
  while (!link.dirty.empty()) {
    std::vector<TunnelCount> records;
    for (std::uint16_t portal : link.dirty) {
      const Counted& count = link.tunnels.at(portal);
      records.push_back({portal, count.live, count.streams});
      if (records.size() == kMaxRecords) break;
    }
    const Sent sent = link.sender->send(Type::tunnels, bytes_of_records(std::span<const TunnelCount>(records)), {},
                                        static_cast<std::uint8_t>(records.size()));
    if (sent == Sent::full) return false;
    for (const TunnelCount& record : records) link.dirty.erase(record.portal);
  }
  return true;
}

void OfferIntake::flush_all(TimePoint now) {
  for (auto& [id, link] : links_) flush(link, now);
  std::erase_if(links_, [](const auto& link) { return link.second.sender == nullptr && link.second.offers.empty(); });
}

void OfferIntake::on_link_eof(LinkId id, TimePoint now) {
  const auto it = links_.find(id);
  if (it == links_.end()) return;
  LinkState& link = it->second;
  link.sender = nullptr;
  link.retry_at.reset();
  link.refusals.clear();
  link.recalled.clear();
  settle({link.unsent.begin(), link.unsent.end()}, false, now);
  flush_all(now);
}

void OfferIntake::on_link_fault(LinkId id) {
  const auto it = links_.find(id);
  if (it == links_.end()) return;
  std::vector<Order> orders;
  for (const auto& [hid, order] : it->second.offers) orders.push_back(order);
  for (Order order : orders) remove(order);
  links_.erase(it);
}

void OfferIntake::on_writable(LinkId id, TimePoint now) {
  const auto it = links_.find(id);
  if (it == links_.end() || it->second.sender == nullptr) return;
  it->second.retry_at.reset();
  settle({it->second.unsent.begin(), it->second.unsent.end()}, false, now);
  flush(it->second, now);
}

void OfferIntake::portal_up(PortalKey portal, TimePoint now) {
  const auto it = by_portal_.find(portal);
  if (it == by_portal_.end()) return;
  settle({it->second.begin(), it->second.end()}, true, now);
  flush_all(now);
}

void OfferIntake::set_tunnels(LinkId id, std::uint16_t portal, std::uint16_t live, std::uint32_t streams,
                              TimePoint now) {
  const auto it = links_.find(id);
  if (it == links_.end() || it->second.sender == nullptr) return;
  const auto [count, fresh] = it->second.tunnels.try_emplace(portal);
  if (!fresh && count->second.live == live && count->second.streams == streams) return;
  count->second = {live, streams};
  it->second.dirty.insert(portal);
  flush(it->second, now);
}

void OfferIntake::go_away(std::uint64_t gen, TimePoint now) {
  if (going_away_) return;
  going_away_ = true;
  goaway_gen_ = gen;
  for (auto& [id, link] : links_) {
    if (link.sender != nullptr) link.sender->send(Type::goaway, bytes_of(Gen{gen}));
  }
  std::vector<Order> all;
  for (const auto& [order, offer] : pending_) all.push_back(order);
  settle(all, false, now);
  flush_all(now);
}

void OfferIntake::set_window(std::uint32_t window, TimePoint now) {
  options_.window = window;
  flush_all(now);
}

std::optional<TimePoint> OfferIntake::next_deadline() const {
  std::optional<TimePoint> due;
  for (const auto& [order, offer] : pending_) {
    if (links_.at(offer.link).unsent.contains(order)) continue;  // chosen: ends with TAKE or the worker's death
    due = offer.came + options_.tunnel_wait;
    break;
  }
  for (const auto& [id, link] : links_) {
    due = sooner(due, link.retry_at);
    if (!link.dirty.empty() && link.tunnels_sent) due = sooner(due, *link.tunnels_sent + options_.tunnels_pace);
  }
  return due;
}

void OfferIntake::on_deadline(TimePoint now) {
  for (auto& [id, link] : links_) {
    if (!link.retry_at || *link.retry_at > now) continue;
    link.retry_at.reset();
    settle({link.unsent.begin(), link.unsent.end()}, false, now);
  }
  for (auto it = pending_.begin(); it != pending_.end() && it->second.came + options_.tunnel_wait <= now;) {
    const Order order = it->first;
    const bool chosen = links_.at(it++->second.link).unsent.contains(order);
    if (!chosen) refuse(order, RefuseReason::no_portal);
  }
  flush_all(now);
}

std::size_t OfferIntake::parked(PortalKey portal) const {
  const auto it = by_portal_.find(portal);
  return it == by_portal_.end() ? 0 : it->second.size();
}

}  // namespace ebb::ipc
