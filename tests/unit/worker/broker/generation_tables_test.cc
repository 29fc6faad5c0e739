// Numbers of offers over reloads: same name, same key; nothing is taken away before commit.
#include "worker/broker/generation_tables.h"

#include <gtest/gtest.h>

namespace ebb::broker {
namespace {

using namespace std::chrono_literals;

UserId user_id(std::uint8_t n) {
  UserId id;
  id.value.fill(n);
  return id;
}

config::Inbound vmess_inbound(std::string tag, std::vector<std::uint8_t> users, std::uint16_t port = 1000) {
  config::Inbound out;
  out.tag = std::move(tag);
  out.ports = {{port, port}};
  config::VmessInbound vmess;
  for (const auto n : users) {
    config::VmessUser user;
    user.id = user_id(n);
    vmess.users.push_back(user);
  }
  out.protocol = vmess;
  return out;
}

config::Config with_portals(std::vector<std::pair<std::string, std::string>> names) {
  config::Config out;
  for (auto& [tag, domain] : names) {
    config::Portal portal;
    portal.tag = tag;
    portal.domain = domain;
    out.portals.push_back(portal);
  }
  return out;
}

config::Config with_inbounds(std::vector<config::Inbound> inbounds) {
  config::Config out;
  out.inbounds = std::move(inbounds);
  return out;
}

std::vector<std::string> tags(const GenerationTables& tables) {
  std::vector<std::string> out;
  for (const auto& each : tables.portals()) out.push_back(each.settings->tag);
  return out;
}

ipc::Hid hid_of(std::uint64_t gen) { return ipc::make_hid(static_cast<std::uint16_t>(gen), 1, 1); }

const TimePoint kStart{1h};

TEST(GenerationTables, GivesTheSameKeyToTheSameTagAndDomain) {
  auto tables = GenerationTables::make(1, with_portals({{"a", "a.x"}, {"b", "b.x"}})).value();
  ASSERT_TRUE(tables.prepare(2, with_portals({{"b", "b.x"}, {"a", "other.x"}, {"c", "a.x"}}), kStart));
  const auto old_keys = tables.at(1)->portals;
  const auto new_keys = tables.at(2)->portals;
  EXPECT_EQ(new_keys[0], old_keys[1]);
  EXPECT_NE(new_keys[1], old_keys[0]);  // another domain: removed and added
  EXPECT_NE(new_keys[2], old_keys[0]);
  EXPECT_NE(new_keys[1], new_keys[2]);
}

TEST(GenerationTables, AddsAtPrepareAndTakesAwayAtCommit) {
  auto tables = GenerationTables::make(1, with_portals({{"a", "a.x"}, {"b", "b.x"}})).value();
  ASSERT_TRUE(tables.prepare(2, with_portals({{"b", "b.x"}, {"c", "c.x"}}), kStart));
  EXPECT_EQ(tags(tables), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(tables.newest(), 2u);
  EXPECT_FALSE(tables.commit(3, kStart));
  ASSERT_TRUE(tables.commit(2, kStart));
  EXPECT_EQ(tags(tables), (std::vector<std::string>{"b", "c"}));
  EXPECT_EQ(tables.current().gen, 2u);
  EXPECT_FALSE(tables.commit(2, kStart));
}

TEST(GenerationTables, FindsPeopleByEmailAndById) {
  auto first = with_inbounds({vmess_inbound("in", {1, 2}), vmess_inbound("other", {1})});
  auto& users = std::get<config::VmessInbound>(first.inbounds[0].protocol).users;
  users[0].email = "One@Home";
  auto tables = GenerationTables::make(1, first).value();
  const auto in = tables.current().inbounds;
  const std::set<Person> one{{in[0], user_id(1)}};
  EXPECT_EQ(tables.people("one@home").who, one);
  EXPECT_EQ(tables.people("one@home").email, "One@Home");
  EXPECT_EQ(tables.people("01010101-0101-0101-0101-010101010101").who.size(), 2u) << "wherever that id is known";
  EXPECT_EQ(tables.people("02020202020202020202020202020202").who, (std::set<Person>{{in[0], user_id(2)}}));
  EXPECT_EQ(tables.people("02020202020202020202020202020202").email, "");
  EXPECT_TRUE(tables.people("").who.empty());
  EXPECT_TRUE(tables.people("two@home").who.empty());
  auto second = first;
  std::get<config::VmessInbound>(second.inbounds[0].protocol).users[1].email = "two@home";
  ASSERT_TRUE(tables.prepare(2, second, kStart));
  EXPECT_EQ(tables.people("TWO@home").who, (std::set<Person>{{in[0], user_id(2)}}));
}

TEST(GenerationTables, ForgetsWhatWasPreparedAtAbort) {
  auto tables = GenerationTables::make(1, with_portals({{"a", "a.x"}})).value();
  ASSERT_TRUE(tables.prepare(2, with_portals({{"b", "b.x"}}), kStart));
  EXPECT_FALSE(tables.abort(7, kStart));
  ASSERT_TRUE(tables.abort(2, kStart));
  EXPECT_EQ(tags(tables), std::vector<std::string>{"a"});
  EXPECT_FALSE(tables.commit(2, kStart));
  EXPECT_EQ(tables.newest(), 1u);
}

TEST(GenerationTables, ReplacesWhatAnEarlierPrepareBuilt) {
  auto tables = GenerationTables::make(1, with_portals({{"a", "a.x"}})).value();
  ASSERT_TRUE(tables.prepare(2, with_portals({{"b", "b.x"}}), kStart));
  ASSERT_TRUE(tables.prepare(3, with_portals({{"c", "c.x"}}), kStart));
  EXPECT_EQ(tags(tables), (std::vector<std::string>{"a", "c"}));
}

TEST(GenerationTables, ChangesNothingWhenTheNewOneCannotBeUsed) {
  auto tables = GenerationTables::make(1, with_portals({{"a", "a.x"}})).value();
  auto bad = with_portals({{"b", "b.x"}});
  routing::Rule rule;
  rule.domains = {"regexp:("};
  rule.outbound_tag = "b";
  bad.rules.push_back(rule);
  const auto prepared = tables.prepare(2, std::move(bad), kStart);
  ASSERT_FALSE(prepared);
  EXPECT_EQ(prepared.error().code, Errc::config);
  EXPECT_EQ(tables.prepared(), nullptr);
  EXPECT_EQ(tables.size(), 1u);
}

// A roll-back: the old workers go on with their numbers, the configuration comes back under a new one.
TEST(GenerationTables, KnowsTheNumbersOfWorkersWhoseConfigurationComesBack) {
  auto tables = GenerationTables::make(1, with_portals({{"a", "a.x"}, {"b", "b.x"}})).value();
  tables.link_added(1);
  ASSERT_TRUE(tables.prepare(2, with_portals({{"b", "b.x"}}), kStart) && tables.commit(2, kStart));
  EXPECT_EQ(tags(tables), std::vector<std::string>{"b"});
  ASSERT_TRUE(tables.prepare(3, with_portals({{"a", "a.x"}, {"b", "b.x"}}), kStart) && tables.commit(3, kStart));
  EXPECT_EQ(tables.find(hid_of(1))->portals, tables.current().portals);
}

TEST(GenerationTables, ReadsTheGenerationOutOfAnOffer) {
  auto tables = GenerationTables::make(0x10001, with_portals({{"a", "a.x"}})).value();
  EXPECT_EQ(tables.find(hid_of(1)), &tables.current());  // the low 16 bits
  EXPECT_EQ(tables.find(hid_of(2)), nullptr);
  ASSERT_TRUE(tables.prepare(0x10002, with_portals({}), kStart));
  EXPECT_EQ(tables.find(hid_of(2)), tables.prepared());
}

TEST(GenerationTables, RetiresATableWhenItsLastLinkIsGoneAndItsOffersAreAnswered) {
  auto tables = GenerationTables::make(1, with_portals({{"a", "a.x"}})).value();
  tables.link_added(1);
  tables.link_added(1);
  ASSERT_TRUE(tables.prepare(2, with_portals({{"a", "a.x"}}), kStart) && tables.commit(2, kStart));
  tables.link_gone(1, kStart);
  tables.retire(5s, kStart + 1min);
  EXPECT_NE(tables.at(1), nullptr);  // one link is left
  EXPECT_FALSE(tables.next_retirement(5s).has_value());
  tables.link_gone(1, kStart + 1min);
  EXPECT_EQ(tables.next_retirement(5s), kStart + 1min + 5s);
  tables.retire(5s, kStart + 1min + 4s);
  EXPECT_NE(tables.at(1), nullptr);
  tables.retire(5s, kStart + 1min + 5s);
  EXPECT_EQ(tables.at(1), nullptr);
  EXPECT_EQ(tables.size(), 1u);
  EXPECT_EQ(tags(tables), std::vector<std::string>{"a"});
}

TEST(GenerationTables, NeverRetiresWhatIsCommittedOrPrepared) {
  auto tables = GenerationTables::make(1, with_portals({})).value();
  tables.link_added(1);
  tables.link_gone(1, kStart);
  ASSERT_TRUE(tables.prepare(2, with_portals({}), kStart));
  tables.retire(0s, kStart + 1h);
  EXPECT_EQ(tables.size(), 2u);
}

TEST(GenerationTables, KeepsAnAbortedTableWhileItsWorkersAreLinked) {
  auto tables = GenerationTables::make(1, with_portals({})).value();
  ASSERT_TRUE(tables.prepare(2, with_portals({}), kStart));
  tables.link_added(2);
  ASSERT_TRUE(tables.abort(2, kStart));
  tables.retire(0s, kStart + 1h);
  EXPECT_NE(tables.at(2), nullptr);
  tables.link_gone(2, kStart + 1h);
  tables.retire(0s, kStart + 1h);
  EXPECT_EQ(tables.at(2), nullptr);
}

TEST(GenerationTables, StaysTheSameSizeOverManyReloads) {
  auto tables = GenerationTables::make(1, with_portals({{"a", "a.x"}})).value();
  const auto key = tables.current().portals[0];
  for (std::uint64_t gen = 2; gen < 500; ++gen) {
    ASSERT_TRUE(tables.prepare(gen, with_portals({{"a", "a.x"}, {"n", std::to_string(gen)}}), kStart));
    ASSERT_TRUE(tables.commit(gen, kStart));
    tables.retire(0s, kStart);
    ASSERT_EQ(tables.size(), 1u);
    ASSERT_EQ(tables.current().portals[0], key);
  }
}

TEST(GenerationTables, FollowsAUserWhoseNumberChanges) {
  auto tables = GenerationTables::make(1, with_inbounds({vmess_inbound("in", {1, 2, 3})})).value();
  const auto second = *GenerationTables::person(tables.current(), 0, 1);
  ASSERT_TRUE(tables.prepare(2, with_inbounds({vmess_inbound("in", {3, 2})}), kStart));
  EXPECT_EQ(GenerationTables::person(*tables.prepared(), 0, 1), second);
  EXPECT_EQ(GenerationTables::person(*tables.prepared(), 0, 2), std::nullopt);
  EXPECT_EQ(GenerationTables::person(*tables.prepared(), 1, 0), std::nullopt);
}

TEST(GenerationTables, RevokesAtCommitAndAllowsNewUsersFromPrepareOn) {
  auto tables = GenerationTables::make(1, with_inbounds({vmess_inbound("in", {1, 2})})).value();
  const auto first = *GenerationTables::person(tables.current(), 0, 0);
  ASSERT_TRUE(tables.prepare(2, with_inbounds({vmess_inbound("in", {2, 3})}), kStart));
  const auto third = *GenerationTables::person(*tables.prepared(), 0, 1);
  EXPECT_TRUE(tables.allows(first));
  EXPECT_TRUE(tables.allows(third));
  ASSERT_TRUE(tables.commit(2, kStart));
  EXPECT_FALSE(tables.allows(first));
  EXPECT_TRUE(tables.allows(third));
}

TEST(GenerationTables, KnowsAUserByTheInboundHeCameThrough) {
  auto tables =
      GenerationTables::make(1, with_inbounds({vmess_inbound("a", {1}), vmess_inbound("b", {1, 2}, 2000)})).value();
  const auto at_a = *GenerationTables::person(tables.current(), 0, 0);
  const auto at_b = *GenerationTables::person(tables.current(), 1, 0);
  const auto other_at_b = *GenerationTables::person(tables.current(), 1, 1);
  ASSERT_TRUE(tables.prepare(2, with_inbounds({vmess_inbound("a", {5}), vmess_inbound("b", {1, 2}, 2000)}), kStart));
  ASSERT_TRUE(tables.commit(2, kStart));
  EXPECT_FALSE(tables.allows(at_a));  // revoked there, whatever he is elsewhere
  EXPECT_TRUE(tables.allows(at_b));
  // His inbound goes, he stays: a port that is removed ends nobody.
  ASSERT_TRUE(tables.prepare(3, with_inbounds({vmess_inbound("c", {1}, 3000)}), kStart));
  ASSERT_TRUE(tables.commit(3, kStart));
  EXPECT_TRUE(tables.allows(at_b));
  EXPECT_FALSE(tables.allows(other_at_b));
}

TEST(GenerationTables, KnowsInboundsWithoutATagByTheirAddress) {
  auto tables =
      GenerationTables::make(1, with_inbounds({vmess_inbound("", {1}), vmess_inbound("", {2}, 2000)})).value();
  ASSERT_TRUE(tables.prepare(2, with_inbounds({vmess_inbound("", {2}, 2000)}), kStart));
  EXPECT_EQ(tables.prepared()->inbounds[0], tables.current().inbounds[1]);
}

TEST(GenerationTables, TellsBridgesOfTheSameNameApart) {
  config::Config config;
  config.bridges.resize(2);
  config.bridges[0].tag = config.bridges[1].tag = "bridge";
  config.bridges[0].domain = config.bridges[1].domain = "x";
  auto tables = GenerationTables::make(1, config).value();
  ASSERT_EQ(tables.bridges().size(), 2u);
  EXPECT_NE(tables.bridges()[0].key, tables.bridges()[1].key);
  config.bridges.pop_back();
  ASSERT_TRUE(tables.prepare(2, config, kStart));
  EXPECT_EQ(tables.bridges().size(), 2u);  // bridges follow the committed one alone
  const auto first = tables.bridges()[0].key;
  ASSERT_TRUE(tables.commit(2, kStart));
  ASSERT_EQ(tables.bridges().size(), 1u);
  EXPECT_EQ(tables.bridges()[0].key, first);
}

}  // namespace
}  // namespace ebb::broker
