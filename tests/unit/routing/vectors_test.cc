// What V2Ray 4.34.0 decided, case by case (tests/vectors/routing/cases.json), asked of the router alone.
#include <gtest/gtest.h>

#include <iostream>
#include <set>

#include "common/routing/router.h"
#include "tests/unit/routing/rules_from_json.h"

namespace ebb::routing {
namespace {

using test::Json;
using test::load_vectors;

/// Features the router does not have; the protocol words in `needs` say nothing about it.
const std::set<std::string> kNotBuilt{"attrs-object", "attrs-text",    "balancer", "dns",
                                      "geo",          "rule-protocol", "sniffing"};

std::string missing_features(const Json& test_case) {
  std::string out;
  for (const Json& need : test_case["needs"])
    if (kNotBuilt.contains(need.text())) out += (out.empty() ? "" : " ") + need.text();
  return out;
}

Network network_of(const Json& connection) {
  return connection.has("network") && connection["network"].text() == "udp" ? Network::udp : Network::tcp;
}

/// Prints what was left out and why.
class Skipped {
 public:
  void add(const Json& test_case, const std::string& why) {
    std::cout << "left out: " << test_case["id"].text() << " (" << why << ")\n";
    ++count_;
  }
  int count() const { return count_; }

 private:
  int count_ = 0;
};

std::string answer(const Json& test_case) {
  Router::Handlers handlers;
  std::vector<std::string> shown;  // "a#2": a second outbound whose tag is "a"
  for (const Json& outbound : test_case["outbounds"]) {
    shown.push_back(outbound.text());
    handlers.outbounds.push_back(outbound.text().substr(0, outbound.text().find('#')));
  }
  const auto rules = test_case.has("routing") ? rules_from_json(test_case["routing"]) : std::vector<Rule>();
  auto router = Router::compile(rules, handlers);
  if (!router) return "(refused: " + router.error().where + ": " + router.error().what + ")";

  const Json& connection = test_case["connection"];
  const Target target{network_of(connection), parse_host(connection["host"].text()),
                      static_cast<std::uint16_t>(connection["port"].number())};
  const Endpoint source{*IpAddress::parse(connection.has("source") ? connection["source"].text() : "127.0.0.1"), 40000};
  const std::string user = connection.has("user") ? connection["user"].text() : "";
  const std::string inbound = connection.has("inboundTag") ? connection["inboundTag"].text() : "";
  const Decision decision = router->decide({inbound, &target, &source, user});
  if (decision.kind == Decision::Kind::none) return "(closed)";
  return shown[decision.index].empty() ? "(untagged)" : shown[decision.index];
}

void expect_answers(const Json& cases, std::size_t to_run, int to_skip) {
  Skipped skipped;
  std::size_t run = 0;
  for (const Json& test_case : cases) {
    const std::string missing = missing_features(test_case);
    const std::string id = test_case["id"].text();
    if (!missing.empty()) {
      skipped.add(test_case, missing);
      continue;
    }
    if (id == "N05") {
      skipped.add(test_case, "refused when the file is loaded: a rule cannot hold an unknown network");
      continue;
    }
    // O10 and O11 are refused when the file is loaded, too, but the router keeps 4.34's answer.
    const bool ours = test_case.has("ours") && !test_case["ours"].text().starts_with("(refused");
    EXPECT_EQ(answer(test_case), test_case[ours ? "ours" : "expect"].text()) << id << ": " << test_case["title"].text();
    ++run;
  }
  EXPECT_EQ(run, to_run);
  EXPECT_EQ(skipped.count(), to_skip);
}

TEST(RoutingVectors, AnswersAsV2Ray434Did) { expect_answers(load_vectors("routing/cases.json")["cases"], 78, 60); }

TEST(RoutingVectors, AnswersAsNewerReleasesDo) { expect_answers(load_vectors("routing/cases.json")["derived"], 3, 9); }

/// One side of a reverse pair: its router, and what its tags stand for.
struct Side {
  explicit Side(const Json& config) : file(config) {
    Router::Handlers handlers;
    if (file.has("outbounds"))
      for (const Json& outbound : file["outbounds"])
        handlers.outbounds.push_back(outbound.has("tag") ? outbound["tag"].text() : "");
    if (file.has("reverse") && file["reverse"].has("portals"))
      for (const Json& portal : file["reverse"]["portals"]) handlers.portals.push_back(portal["tag"].text());
    const auto rules = file.has("routing") ? rules_from_json(file["routing"]) : std::vector<Rule>();
    auto compiled = Router::compile(rules, handlers);
    if (compiled) router.emplace(std::move(*compiled));
  }
  const Json& inbound(const std::string& tag) const {
    for (const Json& candidate : file["inbounds"])
      if (candidate["tag"].text() == tag) return candidate;
    throw std::runtime_error("no inbound " + tag);
  }
  const Json& outbound(std::size_t index) const { return file["outbounds"].at(index); }

  const Json& file;
  std::optional<Router> router;
};

/// The bridge's tunnel: does its connection leave for the portal, and does it reach one whose domain is the same?
bool registers(const Side& portal, const Side& bridge, const Json& reverse) {
  const std::string domain = reverse["domain"].text();
  const Target control{Network::tcp, Host{domain}, 0};
  const Decision out = bridge.router->decide({reverse["tag"].text(), &control, nullptr, ""});
  if (out.kind != Decision::Kind::outbound || bridge.outbound(out.index)["protocol"].text() != "vmess") return false;
  const Json& client = portal.inbound("interconn")["settings"]["clients"].at(0);
  const Endpoint peer{*IpAddress::parse("127.0.0.1"), 40000};
  const std::string user = client.has("email") ? client["email"].text() : "";
  const Decision in = portal.router->decide({"interconn", &control, &peer, user});
  if (in.kind != Decision::Kind::portal) return false;
  return portal.file["reverse"]["portals"].at(in.index)["domain"].text() == domain;
}

std::string reach(const Side& portal, const Side& bridge, const Json& probe) {
  const std::string inbound = probe["inbound"].text();
  const Json& settings = portal.inbound(inbound)["settings"];
  const Target target{network_of(probe), parse_host(settings["address"].text()),
                      static_cast<std::uint16_t>(settings["port"].number())};
  const Endpoint visitor{*IpAddress::parse("127.0.0.1"), 40001};
  if (portal.router->decide({inbound, &target, &visitor, ""}).kind != Decision::Kind::portal) return "(closed)";
  const Json& reverse = bridge.file["reverse"]["bridges"].at(0);
  if (!registers(portal, bridge, reverse)) return "(closed)";
  const Decision out = bridge.router->decide({reverse["tag"].text(), &target, nullptr, ""});
  if (out.kind != Decision::Kind::outbound) return "(closed)";
  const Json& outbound = bridge.outbound(out.index);
  return outbound["protocol"].text() == "vmess" ? "(timeout)" : outbound["tag"].text();  // a loop: back to the portal
}

TEST(RoutingVectors, ReversePairsEndWhereV2RaysDid) {
  Skipped skipped;
  int run = 0;
  for (const Json& test_case : load_vectors("routing/cases.json")["reverse"]) {
    const std::string missing = missing_features(test_case);
    const std::string id = test_case["id"].text();
    if (!missing.empty() || id == "V25") {
      skipped.add(test_case, missing.empty() ? "told apart by the portal's domain, after routing" : missing);
      continue;
    }
    const Side portal(test_case["portal"]);
    const Side bridge(test_case["bridge"]);
    ASSERT_TRUE(portal.router && bridge.router) << id;
    for (std::size_t i = 0; i < test_case["probes"].size(); ++i)
      EXPECT_EQ(reach(portal, bridge, test_case["probes"].at(i)), test_case["expect"].at(i).text())
          << id << ": " << test_case["title"].text();
    ++run;
  }
  EXPECT_EQ(run, 25);
  EXPECT_EQ(skipped.count(), 3);
}

}  // namespace
}  // namespace ebb::routing
