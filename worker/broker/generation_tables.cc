#include "worker/broker/generation_tables.h"

#include <algorithm>
#include <utility>

#include "common/base/log.h"
#include "common/config/people.h"
#include "common/config/text.h"
#include "common/crypto/uuid.h"

namespace ebb::broker {
namespace {

constexpr std::uint16_t low_bits(GenerationTables::Gen gen) { return static_cast<std::uint16_t>(gen); }

std::string address_of(const config::Inbound& inbound) {
  std::string out = inbound.listen.text();
  for (const auto& range : inbound.ports) {
    out += ' ' + std::to_string(range.from) + '-' + std::to_string(range.to);
  }
  return out;
}

Result<routing::Router> compile(const config::Config& config) {
  routing::Router::Handlers handlers;
  for (const auto& outbound : config.outbounds) handlers.outbounds.push_back(outbound.tag);
  for (const auto& portal : config.portals) handlers.portals.push_back(portal.tag);
  return routing::Router::compile(config.rules, handlers, [](std::string_view tag) {
    log_event(log::Level::warning, "routing", "rule names no outbound, the default one is used", kv("tag", tag));
  });
}

}  // namespace

Result<GenerationTables> GenerationTables::make(Gen gen, config::Config config) {
  GenerationTables out;
  auto first = out.add(gen, std::move(config));
  if (!first) return std::unexpected(std::move(first.error()));
  out.current_ = *first;
  return out;
}

Result<GenerationTables::Entry*> GenerationTables::add(Gen gen, config::Config config) {
  auto router = compile(config);
  if (!router) return std::unexpected(std::move(router.error()).in("routing"));
  Entry& entry = entries_.emplace_back(Entry{{gen, std::move(config), std::move(*router), {}, {}, {}}, {}, {}, {}, {}});
  Table& table = entry.table;
  for (const auto& inbound : table.config.inbounds) {
    const InboundKey key{key_of(entry, {'i', inbound.tag, inbound.tag.empty() ? address_of(inbound) : ""})};
    table.inbounds.push_back(key);
    entry.inbounds.insert(key);
    for (const auto& user : config::users_of(inbound)) {
      entry.people.insert({key, user.id});
      entry.ids.insert(user.id);
    }
  }
  for (const auto& portal : table.config.portals) {
    table.portals.push_back(key_of(entry, {'p', portal.tag, portal.domain}));
  }
  for (const auto& bridge : table.config.bridges) {
    table.bridges.push_back(BridgeKey{key_of(entry, {'b', bridge.tag, bridge.domain})});
  }
  return &entry;
}

std::uint32_t GenerationTables::key_of(Entry& entry, Name name) {
  while (std::ranges::find(entry.names, name) != entry.names.end()) ++name.nth;
  Known& known = known_[name];
  if (known.tables++ == 0) known.key = ++last_key_;
  entry.names.push_back(std::move(name));
  return known.key;
}

void GenerationTables::forget(const Entry& entry) {
  for (const Name& name : entry.names) {
    const auto known = known_.find(name);
    if (--known->second.tables == 0) known_.erase(known);
  }
  std::erase_if(entries_, [&](const Entry& each) { return &each == &entry; });
}

Result<> GenerationTables::prepare(Gen gen, config::Config config, TimePoint now) {
  auto added = add(gen, std::move(config));
  if (!added) return std::unexpected(std::move(added.error()));
  if (Entry* old = std::exchange(prepared_, *added); old != nullptr) unused(*old, now);
  return {};
}

bool GenerationTables::commit(Gen gen, TimePoint now) {
  if (prepared_ == nullptr || prepared_->table.gen != gen) return false;
  Entry& old = *std::exchange(current_, std::exchange(prepared_, nullptr));
  unused(old, now);
  return true;
}

bool GenerationTables::abort(Gen gen, TimePoint now) {
  if (prepared_ == nullptr || prepared_->table.gen != gen) return false;
  unused(*std::exchange(prepared_, nullptr), now);
  return true;
}

std::vector<GenerationTables::WantedPortal> GenerationTables::portals() const {
  std::vector<WantedPortal> out;
  std::set<PortalKey> seen;
  for (const Entry* entry : {static_cast<const Entry*>(current_), static_cast<const Entry*>(prepared_)}) {
    if (entry == nullptr) continue;
    for (std::size_t i = 0; i < entry->table.portals.size(); ++i) {
      const PortalKey key = entry->table.portals[i];
      if (seen.insert(key).second) out.push_back({key, &entry->table.config.portals[i]});
    }
  }
  return out;
}

std::vector<GenerationTables::WantedBridge> GenerationTables::bridges() const {
  std::vector<WantedBridge> out;
  const Table& table = current_->table;
  for (std::size_t i = 0; i < table.bridges.size(); ++i) out.push_back({table.bridges[i], &table.config.bridges[i]});
  return out;
}

bool GenerationTables::allows(const Entry& entry, const Person& person) {
  return entry.inbounds.contains(person.inbound) ? entry.people.contains(person) : entry.ids.contains(person.id);
}

bool GenerationTables::allows(const Person& person) const {
  return allows(*current_, person) || (prepared_ != nullptr && allows(*prepared_, person));
}

GenerationTables::People GenerationTables::people(std::string_view email_or_uuid) const {
  std::optional<UserId> id;
  if (!crypto::is_mapped_user_id(email_or_uuid)) {
    if (const auto parsed = crypto::parse_user_id(email_or_uuid)) id = *parsed;
  }
  People out;
  for (const Entry& entry : entries_) {
    const Table& table = entry.table;
    for (std::size_t i = 0; i < table.inbounds.size(); ++i) {
      for (const auto& user : config::users_of(table.config.inbounds[i])) {
        const bool named = !user.email.empty() && config::same_word(user.email, email_or_uuid);
        if (!named && user.id != id) continue;
        out.who.insert({table.inbounds[i], user.id});
        out.email = user.email;
      }
    }
  }
  return out;
}

const GenerationTables::Table* GenerationTables::find(ipc::Hid hid) const {
  const auto bits = static_cast<std::uint16_t>(hid >> 48);
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    if (low_bits(entry->table.gen) == bits) return &entry->table;
  }
  return nullptr;
}

const GenerationTables::Table* GenerationTables::at(Gen gen) const {
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    if (entry->table.gen == gen) return &entry->table;
  }
  return nullptr;
}

std::optional<Person> GenerationTables::person(const Table& table, std::uint16_t inbound, std::uint32_t user) {
  if (inbound >= table.config.inbounds.size()) return std::nullopt;
  const auto users = config::users_of(table.config.inbounds[inbound]);
  if (user >= users.size()) return std::nullopt;
  return Person{table.inbounds[inbound], users[user].id};
}

void GenerationTables::link_added(Gen gen) {
  for (Entry& entry : entries_) {
    if (entry.table.gen != gen) continue;
    ++entry.links;
    entry.unused_since.reset();
  }
}

void GenerationTables::link_gone(Gen gen, TimePoint now) {
  for (Entry& entry : entries_) {
    if (entry.table.gen != gen || entry.links == 0) continue;
    --entry.links;
    unused(entry, now);
  }
}

void GenerationTables::unused(Entry& entry, TimePoint now) {
  if (!in_use(entry)) entry.unused_since = now;
}

void GenerationTables::retire(Duration wait, TimePoint now) {
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const Entry& each = *entry++;
    if (!in_use(each) && each.unused_since && *each.unused_since + wait <= now) forget(each);
  }
}

std::optional<TimePoint> GenerationTables::next_retirement(Duration wait) const {
  std::optional<TimePoint> out;
  for (const Entry& entry : entries_) {
    if (in_use(entry) || !entry.unused_since) continue;
    const TimePoint due = *entry.unused_since + wait;
    out = out ? std::min(*out, due) : due;
  }
  return out;
}

}  // namespace ebb::broker
