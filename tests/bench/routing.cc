// What a decision costs, by length of the rule list and by where the rule is.
#include <benchmark/benchmark.h>

#include "common/routing/router.h"

namespace {

using namespace ebb::routing;
using Strings = std::vector<std::string>;

ebb::Target name(std::string text) { return {ebb::Network::tcp, ebb::Host{std::move(text)}, 443}; }

/// A portal with a rule per site: all have the same inbound tag, each its own name.
void sites(benchmark::State& state) {
  std::vector<Rule> rules;
  for (int i = 0; i < state.range(0); ++i)
    rules.push_back({.domains = Strings{"domain:site" + std::to_string(i) + ".example.org"},
                     .inbound_tags = Strings{"external"},
                     .outbound_tag = "b"});
  const auto router = Router::compile(std::move(rules), {{"a", "b"}, {}}).value();
  const auto target = name("www.site" + std::to_string(state.range(0) - 1) + ".example.org");
  for (auto _ : state) benchmark::DoNotOptimize(router.decide({"external", &target, nullptr, ""}));
}
BENCHMARK(sites)->Arg(1)->Arg(10)->Arg(1000)->Arg(10000);

/// A host with a bridge per customer: all register under the same name, each has its own tag.
void bridges(benchmark::State& state) {
  std::vector<Rule> rules;
  for (int i = 0; i < state.range(0); ++i) {
    const std::string tag = "bridge" + std::to_string(i);
    rules.push_back(
        {.domains = Strings{"full:reverse.example.org"}, .inbound_tags = Strings{tag}, .outbound_tag = "b"});
    rules.push_back({.inbound_tags = Strings{tag}, .outbound_tag = "a"});
  }
  const auto router = Router::compile(std::move(rules), {{"a", "b"}, {}}).value();
  const std::string tag = "bridge" + std::to_string(state.range(0) - 1);
  const auto target = name("reverse.example.org");
  for (auto _ : state) benchmark::DoNotOptimize(router.decide({tag, &target, nullptr, ""}));
}
BENCHMARK(bridges)->Arg(1)->Arg(1000);

/// Rules that no index helps with: addresses, on every inbound.
void networks(benchmark::State& state) {
  std::vector<Rule> rules;
  for (int i = 0; i < state.range(0); ++i)
    rules.push_back({.ips = Strings{"10." + std::to_string(i / 256) + "." + std::to_string(i % 256) + ".0/24"},
                     .outbound_tag = "b"});
  const auto router = Router::compile(std::move(rules), {{"a", "b"}, {}}).value();
  const ebb::Target target{ebb::Network::tcp, ebb::parse_host("192.0.2.1"), 443};
  for (auto _ : state) benchmark::DoNotOptimize(router.decide({"external", &target, nullptr, ""}));
}
BENCHMARK(networks)->Arg(1000);

/// The worst a stranger can send: a name of 255 dots, against names, substrings and an expression.
void hostile_name(benchmark::State& state) {
  const auto router =
      Router::compile({{.domains = Strings{"domain:a", "full:b"}, .outbound_tag = "b"},
                       {.domains = Strings{"keyword:zz", "regexp:^(([a-z.])+.)+[A-Z]([a-z])+$"}, .outbound_tag = "b"}},
                      {{"a", "b"}, {}})
          .value();
  const auto target = name(std::string(255, '.'));
  for (auto _ : state) benchmark::DoNotOptimize(router.decide({"external", &target, nullptr, ""}));
}
BENCHMARK(hostile_name);

}  // namespace
