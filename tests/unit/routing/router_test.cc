#include "common/routing/router.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

namespace ebb::routing {
namespace {

using Kind = Decision::Kind;
using Strings = std::vector<std::string>;

Router make(std::vector<Rule> rules, Router::Handlers handlers, Router::UnknownTagHook hook = {}) {
  return Router::compile(std::move(rules), handlers, std::move(hook)).value();
}

Target name(std::string_view text) { return {Network::tcp, Host{std::string(text)}, 80}; }

TEST(Router, FallsBackToOutboundThenPortalThenNothing) {
  const Target x = name("x.test");
  EXPECT_EQ(make({}, {{"a", "b"}, {"p"}}).decide({"in", &x, nullptr, ""}), (Decision{Kind::outbound, 0, nullptr}));
  EXPECT_EQ(make({}, {{}, {"p", "q"}}).decide({"in", &x, nullptr, ""}), (Decision{Kind::portal, 0, nullptr}));
  EXPECT_EQ(make({}, {{}, {}}).decide({"in", &x, nullptr, ""}), (Decision{Kind::none, 0, nullptr}));
}

TEST(Router, SaysWhichRuleDecided) {
  const Router router = make({{.domains = Strings{"full:y.test"}, .outbound_tag = "b", .rule_tag = "first"},
                              {.networks = std::vector{Network::tcp}, .outbound_tag = "p", .rule_tag = "second"}},
                             {{"a", "b"}, {"p"}});
  const Target x = name("x.test");
  const Decision decision = router.decide({"in", &x, nullptr, ""});
  EXPECT_EQ(decision.kind, Kind::portal);
  ASSERT_NE(decision.rule, nullptr);
  EXPECT_EQ(decision.rule->rule_tag, "second");
  EXPECT_EQ(router.failing_condition(0, {"in", &x, nullptr, ""}), Condition::domain);
  EXPECT_EQ(router.failing_condition(1, {"in", &x, nullptr, ""}), Condition::none);
}

TEST(Router, TellsEachUnknownTagOnce) {
  Strings told;
  const Router router = make({{.domains = Strings{"full:x.test"}, .outbound_tag = "ghost"},
                              {.domains = Strings{"full:y.test"}, .outbound_tag = "ghost"},
                              {.domains = Strings{"full:z.test"}, .outbound_tag = "spook"},
                              {.networks = std::vector{Network::tcp}, .outbound_tag = "b"}},
                             {{"a", "b"}, {}}, [&](std::string_view tag) { told.emplace_back(tag); });
  for (int i = 0; i < 3; ++i) {
    for (const char* host : {"x.test", "y.test", "z.test"}) {
      const Target target = name(host);
      const Decision decision = router.decide({"in", &target, nullptr, ""});
      EXPECT_EQ(decision.index, 0u) << host;  // the default, and later rules are not tried
      EXPECT_NE(decision.rule, nullptr);
    }
  }
  EXPECT_EQ(told, (Strings{"ghost", "spook"}));
}

TEST(Router, KeepsRulesAcrossAMove) {
  Router first = make({{.networks = std::vector{Network::tcp}, .outbound_tag = "a"}}, {{"a"}, {}});
  const Router second = std::move(first);
  const Target x = name("x.test");
  EXPECT_EQ(second.decide({"in", &x, nullptr, ""}).rule, second.rules().data());
}

TEST(Router, APresentEmptyListNeverMatches) {
  const Target x = name("x.test");
  const Endpoint source{*IpAddress::parse("127.0.0.1"), 1};
  for (const Rule& rule : {Rule{.domains = Strings{}}, Rule{.ips = Strings{}}, Rule{.ports = std::vector<PortRange>{}},
                           Rule{.source_ports = std::vector<PortRange>{}}, Rule{.networks = std::vector<Network>{}},
                           Rule{.sources = Strings{}}, Rule{.users = Strings{}}, Rule{.inbound_tags = Strings{}},
                           Rule{.users = Strings{""}}, Rule{.inbound_tags = Strings{""}}})
    EXPECT_EQ(make({rule}, {{"a"}, {}}).decide({"", &x, &source, ""}).rule, nullptr);
}

TEST(Router, WhatIsAbsentNeverMatches) {
  const Router router = make({{.sources = Strings{"0.0.0.0/0", "::/0", "!10.0.0.0/8"}},
                              {.source_ports = std::vector<PortRange>{{0, 65535}}},
                              {.ips = Strings{"!10.0.0.0/8"}},
                              {.users = Strings{"regexp:.*"}}},
                             {{"a"}, {}});
  const Target x = name("x.test");
  EXPECT_EQ(router.decide({"in", &x, nullptr, ""}).rule, nullptr);
  EXPECT_EQ(router.decide({"in", nullptr, nullptr, ""}).rule, nullptr);
}

TEST(Router, FoldsTheCaseOfLongNamesToo) {
  const std::string label(300, 'A');
  const Router router = make({{.domains = Strings{"domain:" + label}, .outbound_tag = "b"}}, {{"a", "b"}, {}});
  for (const std::string& host : {label, "Sub." + label, std::string(300, 'a')}) {
    const Target target = name(host);
    EXPECT_EQ(router.decide({"in", &target, nullptr, ""}).index, 1u) << host;
  }
}

TEST(Router, NamesTheFieldThatDoesNotCompile) {
  const auto bad = [](Rule rule) { return Router::compile({Rule{}, std::move(rule)}, {}).error().where; };
  EXPECT_EQ(bad({.domains = Strings{"a", "regexp:("}}), "rules[1] > domain > [1]");
  EXPECT_EQ(bad({.ips = Strings{"nas.lan"}}), "rules[1] > ip > [0]");
  EXPECT_EQ(bad({.sources = Strings{"nas.lan"}}), "rules[1] > source > [0]");
  EXPECT_EQ(bad({.users = Strings{"regexp:("}}), "rules[1] > user > [0]");
}

/// Rule lists and subjects from a small alphabet, so that all the index's lists are hit, against a plain walk of the
/// rules.
TEST(Router, TheIndexAnswersAsAPlainWalkDoes) {
  std::mt19937 random(7);
  const auto pick = [&](const Strings& from) { return from[random() % from.size()]; };
  const Strings patterns{"full:a.b.c", "domain:b.c", "domain:C",     "full:c", "keyword:b",
                         "regexp:^a",  "dotless:",   "domain:a.b.c", "x",      "domain:"};
  const Strings names{"a.b.c", "b.c", "c", "x.b.c", "abc", "A.B.C", "c.", "", "..", "10.0.0.1", "::1"};
  const Strings tags{"in", "out", "", "other"};
  int rule_hits = 0;
  for (int round = 0; round < 400; ++round) {
    std::vector<Rule> rules(1 + random() % 12);
    for (Rule& rule : rules) {
      rule.outbound_tag = "b";
      if (random() % 3 != 0) {
        rule.domains.emplace();
        for (unsigned i = random() % 4; i > 0; --i) rule.domains->push_back(pick(patterns));
      }
      if (random() % 2 == 0) rule.inbound_tags = Strings{pick(tags), pick(tags)};
      if (random() % 4 == 0) rule.networks = std::vector{random() % 2 == 0 ? Network::tcp : Network::udp};
      if (random() % 5 == 0) rule.ports = std::vector<PortRange>{{80, 81}};
      if (random() % 6 == 0) rule.ips = Strings{pick({"10.0.0.0/8", "!::1", "!1.1.1.1"})};
    }
    const Router router = make(rules, {{"a", "b"}, {}});
    for (int i = 0; i < 30; ++i) {
      const Target target{random() % 2 == 0 ? Network::tcp : Network::udp, parse_host(pick(names)),
                          static_cast<std::uint16_t>(80 + random() % 3)};
      const std::string tag = pick(tags);
      const Subject subject{tag, &target, nullptr, ""};
      const Rule* walked = nullptr;
      for (std::size_t r = 0; r < rules.size() && walked == nullptr; ++r)
        if (router.failing_condition(r, subject) == Condition::none) walked = &router.rules()[r];
      ASSERT_EQ(router.decide(subject).rule, walked) << "round " << round << " " << target.text() << " from " << tag;
      if (walked != nullptr) ++rule_hits;
    }
  }
  EXPECT_GT(rule_hits, 4000);
}

TEST(Router, DecidesInSeveralThreadsAtOnce) {
  std::atomic<int> told = 0;
  const Router router = make({{.domains = Strings{"regexp:^n[0-9]+$"}, .outbound_tag = "ghost"}}, {{"a"}, {}},
                             [&](std::string_view) { ++told; });
  std::vector<std::jthread> threads;
  std::atomic<int> hits = 0;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        const Target target = name("N" + std::to_string(i));
        if (router.decide({"in", &target, nullptr, ""}).rule != nullptr) ++hits;
      }
    });
  threads.clear();
  EXPECT_EQ(hits, 2000);
  EXPECT_EQ(told, 1);
}

}  // namespace
}  // namespace ebb::routing
