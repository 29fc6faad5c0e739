#include "common/reverse/health.h"

#include <algorithm>

namespace ebb::reverse {

Health::Entry* Health::find(std::uint64_t bridge, std::uint64_t target) {
  const auto at = index_.find({bridge, target});
  return at != index_.end() ? &*at->second : nullptr;
}

Standing Health::standing(std::uint64_t bridge, std::uint64_t target, TimePoint now) const {
  const auto at = index_.find({bridge, target});
  if (at == index_.end()) return Standing::untried;
  const Entry& entry = *at->second;
  // Who is silent for longer than a refusal takes holds up nobody: some protocols begin with a long silence.
  const bool awaited = entry.waiting > 0 && now - entry.waiting_since < kAtOnce;
  if (entry.failing) return now >= entry.retry_at && !awaited ? Standing::untried : Standing::failing;
  if (entry.proven) return Standing::proven;
  return awaited && entry.waiting >= kScouts ? Standing::crowded : Standing::untried;
}

Health::Ticket Health::opened(std::uint64_t bridge, std::uint64_t target, TimePoint now) {
  Entry* entry = find(bridge, target);
  if (entry == nullptr) {
    if (entries_.size() >= kMaxEntries) {
      index_.erase(entries_.back().key);
      entries_.pop_back();
    }
    entries_.push_front({.key = {bridge, target}});
    index_[entries_.front().key] = entries_.begin();
    entry = &entries_.front();
  } else if (entry != &entries_.front()) {
    entries_.splice(entries_.begin(), entries_, index_[entry->key]);
  }
  if (entry->waiting++ == 0) entry->waiting_since = now;
  entry->last_opened = now;
  return {bridge, target, now, entry->failing && now >= entry->retry_at};
}

/// One stream less is awaited.
void Health::settled(Entry& entry) {
  if (entry.waiting > 0) --entry.waiting;
  entry.waiting_since = entry.last_opened;
}

void Health::reached(const Ticket& ticket) {
  Entry* entry = find(ticket.bridge, ticket.target);
  if (entry == nullptr) return;
  settled(*entry);
  entry->proven = true;
  entry->failing = false;
  entry->strikes = entry->trials = 0;
}

/// `strikes`: so many failures in a row are enough.
void Health::fail(const Ticket& ticket, unsigned strikes, TimePoint now) {
  Entry* entry = find(ticket.bridge, ticket.target);
  if (entry == nullptr) return;
  settled(*entry);
  if (entry->failing) {
    // Streams of before, and those of a time when everybody fails, say nothing new.
    if (!ticket.trial || ticket.opened < entry->failing_since) return;
    entry->trials = std::min(entry->trials + 1, 16u);
  } else {
    if (++entry->strikes < strikes && entry->proven) return;
    entry->failing = true;
    entry->proven = false;
    entry->trials = 0;
  }
  entry->failing_since = now;
  entry->retry_at = now + std::min<Duration>(kFirstPause * (1u << entry->trials), kLongestPause);
}

void Health::dropped(const Ticket& ticket) {
  if (Entry* entry = find(ticket.bridge, ticket.target)) settled(*entry);
}

void Health::ended(const Ticket& ticket, Ending how, bool always_says, TimePoint now) {
  if (how == Ending::unreached) return fail(ticket, 1, now);
  if (how == Ending::aborted) return failed(ticket, now);
  // An origin that takes a connection and closes it is no fault of its bridge, but a stock bridge says the same of one
  // that cannot be reached.
  const bool soon = now - ticket.opened < kAtOnce;
  if (how == Ending::complete && soon && !always_says) return failed(ticket, now);
  dropped(ticket);
}

Health::Summary Health::summary(std::uint64_t bridge) const {
  Summary out;
  for (const Entry& entry : entries_) {
    if (entry.key.bridge != bridge) continue;
    if (entry.proven) ++out.proven;
    if (!entry.failing) continue;
    ++out.failing;
    out.next_trial = std::min(out.next_trial, entry.retry_at);
  }
  return out;
}

}  // namespace ebb::reverse
