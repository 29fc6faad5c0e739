#include "ipc/offer_book.h"

#include <algorithm>
#include <array>

namespace ebb::ipc {
namespace {

std::optional<TimePoint> sooner(std::optional<TimePoint> a, std::optional<TimePoint> b) {
  if (!a) return b;
  return b ? std::min(*a, *b) : *a;
}

/// What the other end's table would say of this record: asked of the table itself.
bool legal(const OfferRecord& record, ConstSpan blob) {
  Bytes body(sizeof record + blob.size());
  std::ranges::copy(bytes_of(record), body.begin());
  std::ranges::copy(blob, body.begin() + sizeof record);
  Header header;
  header.type = static_cast<std::uint16_t>(Type::offer);
  header.nfds = header.nrec = 1;
  header.seq = 1;
  header.body_len = static_cast<std::uint32_t>(body.size());
  return Direction(Link::handoff, Role::worker).check(header, body) == FaultCode::none;
}

}  // namespace

OfferBook::OfferBook(Options options, Ended ended) : options_(options), ended_(std::move(ended)) {}

bool OfferBook::LinkState::has(std::uint16_t portal) const {
  const auto it = live.find(portal);
  return it != live.end() && it->second > 0;
}

bool OfferBook::add_link(std::uint64_t broker_gen, Sender& link, std::uint32_t credits) {
  const auto [it, fresh] = links_.try_emplace(broker_gen);
  if (!fresh) return false;
  it->second.sender = &link;
  it->second.window = credits;
  stale_ = true;
  return true;
}

void OfferBook::on_broker_state(std::uint64_t broker_gen, BrokerPhase phase) {
  const auto it = links_.find(broker_gen);
  if (it == links_.end()) return;
  it->second.phase = phase;
  it->second.refused_draining = false;
  stale_ = true;
  recall_misplaced();
}

Hid OfferBook::next_hid() {
  Hid hid = 0;
  do hid = make_hid(options_.generation, options_.worker, ++counter_);
  while (hid == 0 || entries_.contains(hid));
  return hid;
}

std::optional<Hid> OfferBook::offer(OfferRecord offer, Fd& fd, Bytes& blob, TimePoint now) {
  const bool first = held_.empty() && blob.empty() && fd && entries_.size() < options_.max_offers;
  const auto to = first ? choose(offer) : links_.end();
  if (to != links_.end() && to->second.room() && to->second.batch.empty()) {
    offer.hid = next_hid();
    offer.blob_len = 0;
    offer.pad = {};
    const int fds[] = {fd.get()};
    const Sent sent = to->second.sender->try_send(Type::offer, bytes_of(offer), fds, 1);
    if (sent == Sent::illegal) return {};
    if (sent == Sent::sent || sent == Sent::queued) {
      Entry& entry = entries_[offer.hid];
      entry.record = offer;
      entry.fd = std::move(fd);
      entry.state = OfferState::offered;
      entry.link = to->first;
      ++to->second.unacked;
      return offer.hid;
    }
  }
  const auto hid = add(offer, fd, blob);
  if (hid) flush(now);
  return hid;
}

std::optional<Hid> OfferBook::add(OfferRecord offer, Fd& fd, Bytes& blob) {
  if (entries_.size() >= options_.max_offers || blob_bytes_ + blob.size() > options_.max_blob_bytes || !fd) return {};
  const Hid hid = next_hid();
  offer.hid = hid;
  offer.blob_len = static_cast<std::uint32_t>(blob.size());
  offer.pad = {};
  if (!legal(offer, blob)) return {};
  blob_bytes_ += blob.size();
  Entry& entry = entries_[hid];
  entry.record = offer;
  entry.fd = std::move(fd);
  entry.blob = std::move(blob);
  held_.push_back(hid);
  stale_ = true;
  return hid;
}

/// Section 7.4. Tunnels: the newest broker that is not leaving, always; this is what moves bridges over. Visitors: the
/// newest with a live tunnel (one that said GOAWAY only if nobody else has), else the newest that may park them.
OfferBook::Links::iterator OfferBook::choose(const OfferRecord& record) {
  auto leaving_with_tunnel = links_.end(), parking = links_.end();
  for (auto it = links_.begin(); it != links_.end(); ++it) {
    const LinkState& link = it->second;
    if (link.dead || link.phase == BrokerPhase::dead) continue;
    if (record.role == OfferRole::visitor && link.has(record.portal)) {
      if (!link.leaving()) return it;
      if (leaving_with_tunnel == links_.end()) leaving_with_tunnel = it;
    }
    if (parking == links_.end() && link.parks()) parking = it;
  }
  return leaving_with_tunnel != links_.end() ? leaving_with_tunnel : parking;
}

/// True when waiting where it is would be worse: a recall is never made because of age alone.
bool OfferBook::misplaced(const Entry& entry, Links::iterator better) const {
  if (better == links_.end() || better->first == entry.link) return false;
  const LinkState& now = links_.at(entry.link);
  if (entry.record.role == OfferRole::tunnel) return !now.parks();
  if (now.has(entry.record.portal)) return false;
  return better->second.has(entry.record.portal) || !now.parks();
}

void OfferBook::recall_misplaced() {
  if (links_.size() < 2 || unacked() == 0) return;
  std::map<std::uint64_t, std::vector<Hid>> recalls;
  for (auto& [hid, entry] : entries_) {
    if (entry.state == OfferState::offered && !links_.at(entry.link).dead && misplaced(entry, choose(entry.record))) {
      recalls[entry.link].push_back(hid);
    }
  }
  for (auto& [gen, hids] : recalls) {
    const std::span<const Hid> all(hids);
    for (std::size_t at = 0; at < all.size(); at += kMaxHids) {
      const auto part = all.subspan(at, std::min(kMaxHids, all.size() - at));
      const Sent sent =
          links_.at(gen).sender->send(Type::recall, bytes_of_records(part), {}, static_cast<std::uint8_t>(part.size()));
      if (sent != Sent::sent && sent != Sent::queued) break;  // stays offered: the next change asks again
      for (Hid hid : part) entries_.at(hid).state = OfferState::recalling;
    }
  }
}

void OfferBook::flush(TimePoint now) {
  for (auto& [gen, link] : links_) {
    if (link.retry_at && *link.retry_at <= now) link.retry_at.reset(), stale_ = true;
  }
  if (held_due_ && *held_due_ <= now) stale_ = true;
  while (std::exchange(stale_, false)) place_held(now);  // again when a link turned out dead: at most once per link
  report();
}

/// One pass over everything held: sent, given up, or kept in order.
void OfferBook::place_held(TimePoint now) {
  held_due_.reset();
  nowhere_ = 0;
  std::deque<Hid> rest;
  for (Hid hid : std::exchange(held_, {})) {
    const auto it = entries_.find(hid);
    Entry& entry = it->second;
    if (entry.not_before && *entry.not_before > now) {
      held_due_ = sooner(held_due_, entry.not_before);
      rest.push_back(hid);
      continue;
    }
    entry.not_before.reset();
    const auto to = choose(entry.record);
    if (to == links_.end()) {
      if (!entry.nowhere_since) entry.nowhere_since = now;
      const TimePoint give_up = *entry.nowhere_since + options_.give_up;
      if (give_up <= now) {
        end(it, OfferOutcome::gave_up);
      } else {
        held_due_ = sooner(held_due_, give_up);
        rest.push_back(hid);
        ++nowhere_;
      }
      continue;
    }
    entry.nowhere_since.reset();
    LinkState& link = to->second;
    const bool alone = !entry.blob.empty();  // behind what is collected, which may use up the link's room
    if (alone && !link.batch.empty()) send_batch(to->first, link, now, rest);
    if (!link.room()) {
      rest.push_back(hid);
      continue;
    }
    link.batch.push_back(hid);
    if (alone || link.batch.size() == kMaxOffers) send_batch(to->first, link, now, rest);
  }
  for (auto& [gen, link] : links_) {
    if (!link.batch.empty()) send_batch(gen, link, now, rest);
  }
  held_ = std::move(rest);
}

void OfferBook::send_batch(std::uint64_t gen, LinkState& link, TimePoint now, std::deque<Hid>& rest) {
  std::array<int, kMaxOffers> fds;
  Bytes body;
  body.reserve(link.batch.size() * sizeof(OfferRecord) + entries_.at(link.batch.front()).blob.size());
  for (std::size_t i = 0; i < link.batch.size(); ++i) {
    const Entry& entry = entries_.at(link.batch[i]);
    fds[i] = entry.fd.get();
    const ConstSpan record = bytes_of(entry.record);
    body.insert(body.end(), record.begin(), record.end());
    body.insert(body.end(), entry.blob.begin(), entry.blob.end());
  }
  // try_send, not send: a queued copy would need its own fd, and ours is kept anyway.
  const Sent sent = link.sender->try_send(Type::offer, body, std::span(fds).first(link.batch.size()),
                                          static_cast<std::uint8_t>(link.batch.size()));
  const std::vector<Hid> batch = std::exchange(link.batch, {});
  switch (sent) {
    case Sent::sent:
    case Sent::queued:
      for (Hid hid : batch) {
        Entry& entry = entries_.at(hid);
        entry.state = OfferState::offered;
        entry.link = gen;
      }
      link.unacked += static_cast<std::uint32_t>(batch.size());
      return;
    case Sent::illegal:  // records are checked in add(): the link itself is closed on our side
    case Sent::dead:
      link.dead = true;
      stale_ = true;  // another broker may have them
      break;
    case Sent::full: link.retry_at = now + options_.retry; break;
  }
  rest.insert(rest.end(), batch.begin(), batch.end());
}

void OfferBook::on_writable(std::uint64_t broker_gen) {
  const auto it = links_.find(broker_gen);
  if (it == links_.end()) return;
  it->second.retry_at.reset();
  stale_ = true;
}

void OfferBook::send_goaway() {
  for (auto& [gen, link] : links_) link.sender->send(Type::goaway, bytes_of(Gen{options_.generation}));
}

void OfferBook::to_held(Hid hid, Entry& entry) {
  entry.state = OfferState::held;
  entry.record.flags |= offer_flags::retry;
  held_.push_back(hid);
  stale_ = true;
}

void OfferBook::end(std::unordered_map<Hid, Entry>::iterator it, OfferOutcome outcome) {
  blob_bytes_ -= it->second.blob.size();
  const bool ours = outcome != OfferOutcome::taken && outcome != OfferOutcome::link_fault;
  endings_.push_back({it->second.record, outcome, ours ? std::move(it->second.fd) : Fd{}});
  entries_.erase(it);
}

void OfferBook::report() {
  for (Ending& e : std::exchange(endings_, {})) ended_(e.record, e.outcome, std::move(e.fd));
}

FaultCode OfferBook::on_refuse(std::uint64_t gen, LinkState& link, const Refusal& refusal, TimePoint now) {
  const auto it = entries_.find(refusal.hid);
  if (it == entries_.end() || it->second.state == OfferState::held || it->second.link != gen) {
    return FaultCode::unexpected;
  }
  --link.unacked;
  Entry& entry = it->second;
  switch (refusal.reason) {
    case RefuseReason::draining:
      // Believed at once, else the offer would come straight back: a crossing TUNNELS will say otherwise.
      link.refused_draining = true;
      if (entry.record.role == OfferRole::visitor) link.live.erase(entry.record.portal);
      to_held(refusal.hid, entry);
      break;
    case RefuseReason::ctrunc:
      entry.not_before = now + options_.retry * (1 << std::min<int>(entry.ctruncs, 7));
      if (entry.ctruncs < 7) ++entry.ctruncs;
      held_due_ = sooner(held_due_, entry.not_before);
      to_held(refusal.hid, entry);
      break;
    case RefuseReason::no_portal: end(it, OfferOutcome::no_portal); break;
    case RefuseReason::overload: end(it, OfferOutcome::overload); break;
    case RefuseReason::bad_state: end(it, OfferOutcome::bad_state); break;
  }
  return FaultCode::none;
}

FaultCode OfferBook::on_message(std::uint64_t broker_gen, const Message& message, TimePoint now) {
  const auto found = links_.find(broker_gen);
  if (found == links_.end()) return FaultCode::unexpected;
  LinkState& link = found->second;
  FaultCode fault = FaultCode::none;
  switch (message.type()) {
    case Type::take:
    case Type::recalled: {
      const bool take = message.type() == Type::take;
      for (Hid hid : message.records<Hid>()) {
        const auto it = entries_.find(hid);
        if (it == entries_.end() || it->second.link != broker_gen || it->second.state == OfferState::held ||
            (!take && it->second.state != OfferState::recalling)) {
          fault = FaultCode::unexpected;
          break;
        }
        --link.unacked;
        if (take) {
          end(it, OfferOutcome::taken);
        } else {
          to_held(hid, it->second);
        }
      }
      break;
    }
    case Type::refuse:
      for (const Refusal& refusal : message.records<Refusal>()) {
        fault = on_refuse(broker_gen, link, refusal, now);
        if (fault != FaultCode::none) break;
      }
      recall_misplaced();  // others may wait at the broker that now says it drains
      break;
    case Type::credit: link.window = message.as<Credit>().window; break;
    case Type::tunnels: {
      bool changed = false;
      for (const TunnelCount& count : message.records<TunnelCount>()) {
        changed |= link.has(count.portal) != (count.live > 0);
        if (count.live > 0) {
          link.live[count.portal] = count.live;
        } else {
          link.live.erase(count.portal);
        }
      }
      if (changed) recall_misplaced();
      break;
    }
    case Type::goaway:
      link.goaway = true;
      recall_misplaced();
      break;
    default: return FaultCode::none;  // FAULT: the end of file follows
  }
  stale_ = true;
  report();
  return fault;
}

void OfferBook::on_link_eof(std::uint64_t broker_gen, TimePoint now) {
  if (links_.erase(broker_gen) == 0) return;
  std::vector<Hid> back;
  for (const auto& [hid, entry] : entries_) {
    if (entry.state != OfferState::held && entry.link == broker_gen) back.push_back(hid);
  }
  std::ranges::sort(back);  // hids count up: first come, first served again
  for (Hid hid : back) to_held(hid, entries_.at(hid));
  stale_ = true;
  flush(now);
}

void OfferBook::on_link_fault(std::uint64_t broker_gen) {
  if (links_.erase(broker_gen) == 0) return;
  for (auto it = entries_.begin(); it != entries_.end();) {
    const auto entry = it++;
    if (entry->second.state != OfferState::held && entry->second.link == broker_gen) {
      end(entry, OfferOutcome::link_fault);
    }
  }
  stale_ = true;
  report();
}

std::optional<TimePoint> OfferBook::next_deadline() const {
  std::optional<TimePoint> due = held_due_;
  for (const auto& [gen, link] : links_) due = sooner(due, link.retry_at);
  return due;
}

/// What is held counts as under way: a connection accepted beyond the room there is would wait here, where nobody else
/// can take it over should this process be killed. In the kernel's queue it is safe.
bool OfferBook::accepting() const {
  std::size_t room = 0;
  for (const auto& [gen, link] : links_) {
    if (link.room()) room += link.window - link.unacked;
  }
  return entries_.size() < options_.max_offers && held_.size() - nowhere_ < room;
}

std::optional<OfferState> OfferBook::state(Hid hid) const {
  const auto it = entries_.find(hid);
  if (it == entries_.end()) return std::nullopt;
  return it->second.state;
}

}  // namespace ebb::ipc
