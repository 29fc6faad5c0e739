// What the ids of an offer mean: one table per configuration generation, and keys that mean the same in all of them.
// Says which portals and bridges have to exist and whose tunnels may go on; holds none of them. No IO, time is an
// argument. Offers carry numbers of their sender's generation: ipc/PROTOCOL.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "common/base/time.h"
#include "common/config/config.h"
#include "common/routing/router.h"
#include "ipc/offer_intake.h"

namespace ebb::broker {

using ipc::PortalKey;
using BridgeKey = Strong<std::uint32_t, struct BridgeKeyKind>;
using InboundKey = Strong<std::uint32_t, struct InboundKeyKind>;

/// Who authenticated, and where: an id may be known at several inbounds.
struct Person {
  InboundKey inbound;
  UserId id;
  friend auto operator<=>(const Person&, const Person&) = default;
};

class GenerationTables {
 public:
  using Gen = std::uint64_t;  // of the workers' configuration; offers carry its low 16 bits

  /// A configuration and the keys of what is in it, by position.
  struct Table {
    Gen gen;
    config::Config config;
    routing::Router router;
    std::vector<InboundKey> inbounds;
    std::vector<PortalKey> portals;
    std::vector<BridgeKey> bridges;
  };
  struct WantedPortal {
    PortalKey key;
    const config::Portal* settings;
  };
  struct WantedBridge {
    BridgeKey key;
    const config::Bridge* settings;
  };

  /// Errors: config, rules that cannot be compiled.
  static Result<GenerationTables> make(Gen gen, config::Config config);

  // ---- steps of a reload
  /// What `config` names can be used from here on, beside the committed one. Replaces what an earlier one prepared.
  /// Errors: config; nothing has changed then.
  Result<> prepare(Gen gen, config::Config config, TimePoint now);
  /// The prepared generation is the only one that decides. False: `gen` is not the prepared one, nothing happened.
  bool commit(Gen gen, TimePoint now);
  bool abort(Gen gen, TimePoint now);

  const Table& current() const { return current_->table; }
  const Table* prepared() const { return prepared_ != nullptr ? &prepared_->table : nullptr; }

  // ---- what has to exist. Pointers are good until the next step.
  /// Of the committed configuration in file order, then what only the prepared one names. Same tag and domain: same
  /// key.
  std::vector<WantedPortal> portals() const;
  /// Of the committed configuration alone: a bridge dials from commit on.
  std::vector<WantedBridge> bridges() const;
  /// Whether the committed or the prepared configuration still knows him: at the inbound where he came in or, where
  /// that is gone, at any.
  bool allows(const Person& person) const;

  /// Everybody of that e-mail, letters in either case as V2Ray compares them, or of that UUID, in any configuration in
  /// use.
  struct People {
    std::set<Person> who;
    std::string email;  // theirs; empty: they have none
  };
  People people(std::string_view email_or_uuid) const;

  // ---- ids of offers
  /// The newest generation of these low 16 bits that is in use; null: none, or retired.
  const Table* find(ipc::Hid hid) const;
  /// The same for a link: its workers' generation.
  const Table* at(Gen gen) const;
  /// Of user number `user` of an inbound. nullopt: there is no such user.
  static std::optional<Person> person(const Table& table, std::uint16_t inbound, std::uint32_t user);

  // ---- how long a table lives: while it is committed or prepared, while a link uses it, and until `wait` after that.
  /// The generation of workers that are linked now: the newest.
  Gen newest() const { return (prepared_ != nullptr ? prepared_ : current_)->table.gen; }
  void link_added(Gen gen);
  void link_gone(Gen gen, TimePoint now);
  /// Offers of dead workers may wait so long for a tunnel.
  void retire(Duration wait, TimePoint now);
  std::optional<TimePoint> next_retirement(Duration wait) const;
  std::size_t size() const { return entries_.size(); }

 private:
  /// Two entries of one configuration with the same name are told apart by their order.
  struct Name {
    char kind;  // i, p, b
    std::string tag;
    std::string rest;  // domain; of an inbound without a tag: its address
    std::uint32_t nth = 0;
    friend auto operator<=>(const Name&, const Name&) = default;
  };
  struct Known {
    std::uint32_t key = 0;
    std::size_t tables = 0;
  };
  struct Entry {
    Table table;
    std::vector<Name> names;
    std::set<InboundKey> inbounds;
    std::set<Person> people;
    std::unordered_set<UserId> ids;
    std::size_t links = 0;
    std::optional<TimePoint> unused_since;
  };

  GenerationTables() = default;
  Result<Entry*> add(Gen gen, config::Config config);
  std::uint32_t key_of(Entry& entry, Name name);
  void forget(const Entry& entry);
  void unused(Entry& entry, TimePoint now);
  bool in_use(const Entry& entry) const { return &entry == current_ || &entry == prepared_ || entry.links > 0; }
  static bool allows(const Entry& entry, const Person& person);

  std::list<Entry> entries_;  // oldest first
  Entry* current_ = nullptr;
  Entry* prepared_ = nullptr;
  std::map<Name, Known> known_;
  std::uint32_t last_key_ = 0;
};

}  // namespace ebb::broker
