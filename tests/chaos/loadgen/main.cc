// ebb_loadgen: the load of tests/chaos, the origin behind it, and a server that loses connections to prove the harness.
#include <signal.h>
#include <sys/resource.h>

#include <charconv>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/chaos/loadgen/chop.h"
#include "tests/chaos/loadgen/flow_load.h"
#include "tests/chaos/loadgen/long_load.h"
#include "tests/chaos/loadgen/naive.h"
#include "tests/chaos/loadgen/origin.h"
#include "tests/chaos/loadgen/short_load.h"

namespace {

using namespace ebb;
using namespace ebb::loadgen;

constexpr const char* kUsage =
    R"(ebb_loadgen --target HOST:PORT [--target ...] [--rate R] [--seconds S] [--long N] [--reopen] [--gap MS]
                           [--bulk BYTES --bulk-streams N] [--most-open N] [--first SEQUENCE] [--close-first]
ebb_loadgen --origin PORT
ebb_loadgen --naive-server PORT [--workers N] [--generation-ms MS]
ebb_loadgen --chop PORT --target HOST:PORT [--singles N]
ebb_loadgen --flows N --target HOST:PORT [--rate R] [--seconds S] [--bytes N]
ebb_loadgen --udp-origin PORT

Load: R new connections a second for S seconds, N that stay with an exchange every MS (50), bulk streams that come back.
--close-first: every short connection ends from the visitor's side, as HTTP clients with keep-alive do.
The last line on stdout is the result, in JSON. Lines on stdin: progress | stop | rate R | add T | drop T; its end = stop.
Chop: passes connections on, their first N (200) bytes one by one, a millisecond apart.
Flows: N UDP clients, R datagrams a second of all together, each answered by the UDP origin, which echoes.
Origin: echoes. Lines on stdin: progress | seen SEQUENCE ... | stop.
)";

struct Options {
  std::map<std::string, std::string, std::less<>> single;
  std::vector<Target> targets;
  bool reopen = false, close_first = false;
};

double number(const Options& options, std::string_view name, double otherwise) {
  const auto found = options.single.find(name);
  return found == options.single.end() ? otherwise : std::strtod(found->second.c_str(), nullptr);
}

bool read_options(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--reopen" || word == "--close-first") {
      (word == "--reopen" ? options.reopen : options.close_first) = true;
      continue;
    }
    if (!word.starts_with("--") || i + 1 >= argc) return false;
    const char* value = argv[++i];
    if (word != "--target") {
      options.single[word.substr(2)] = value;
      continue;
    }
    auto target = parse_target(value);
    if (!target) return false;
    options.targets.push_back(std::move(*target));
  }
  return true;
}

std::int64_t cpu_ms() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto ms = [](const timeval& t) { return t.tv_sec * 1000 + t.tv_usec / 1000; };
  return ms(usage.ru_utime) + ms(usage.ru_stime);
}

/// The word after `verb` and a blank; nothing when the line begins otherwise.
std::optional<std::string_view> after(std::string_view line, std::string_view verb) {
  if (!line.starts_with(verb)) return std::nullopt;
  return line.substr(verb.size());
}

int run_load(const Options& options) {
  const std::uint64_t files = raise_open_files();
  const std::uint32_t run = std::random_device{}();
  const std::int64_t begin = now_us();
  const double seconds = number(options, "seconds", 12);
  const auto streams = static_cast<std::size_t>(number(options, "long", 0));
  const auto bulk_streams = static_cast<std::size_t>(number(options, "bulk-streams", 0));
  const auto spare = static_cast<double>(files - std::min<std::uint64_t>(files / 2, 64 + streams + bulk_streams));
  Poller poller;
  ShortLoad shorts(poller,
                   {.run = run,
                    .rate = number(options, "rate", 0),
                    .until_us = begin + static_cast<std::int64_t>(seconds * 1e6),
                    .most_open = static_cast<std::size_t>(std::min(number(options, "most-open", 60'000), spare)),
                    .first = static_cast<std::uint64_t>(number(options, "first", 1)),
                    .close_first = options.close_first},
                   options.targets);
  LongLoad longs(poller,
                 {.run = run,
                  .streams = streams,
                  .reopen = options.reopen,
                  .gap_us = static_cast<std::int64_t>(number(options, "gap", 50) * 1000)},
                 options.targets);
  LongLoad bulk(
      poller,
      {.run = run, .streams = bulk_streams, .bulk_bytes = static_cast<std::uint64_t>(number(options, "bulk", 1 << 20))},
      options.targets);
  const auto report = [&](const char* key) {
    JsonWriter json;
    json.object().key(key).object();
    json.key("at_us").number(now_us()).key("began_us").number(begin);
    json.key("started").number(static_cast<std::int64_t>(shorts.started()));
    json.key("open").number(static_cast<std::int64_t>(shorts.open()));
    json.key("most_open").number(static_cast<std::int64_t>(shorts.most_open()));
    json.key("held_back").number(static_cast<std::int64_t>(shorts.held_back()));
    json.key("cpu_ms").number(cpu_ms());
    shorts.tally().write(json);
    json.key("long").object();
    longs.write(json);
    json.end().key("bulk").object();
    bulk.write(json);
    json.end().end().end();
    print_line(json.str());
  };
  Commands commands(poller, [&](std::string_view line) {
    if (line == "progress") return report("progress");
    if (line == "stop") return shorts.stop(now_us());
    if (const auto rate = after(line, "rate ")) {
      return shorts.set_rate(std::strtod(std::string(*rate).c_str(), nullptr), now_us());
    }
    if (const auto text = after(line, "drop ")) return shorts.drop_target(*text);
    if (const auto text = after(line, "add ")) {
      if (auto target = parse_target(*text)) return shorts.add_target(std::move(*target));
    }
    std::fprintf(stderr, "ebb_loadgen: unknown command: %.*s\n", static_cast<int>(line.size()), line.data());
  });
  for (;;) {
    poller.wait(1);
    const std::int64_t now = now_us();
    shorts.tick(now);
    longs.tick(now);
    bulk.tick(now);
    if (!shorts.finished(now) || !bulk.finished()) continue;
    longs.stop();
    if (longs.finished()) break;
  }
  report("result");
  return 0;
}

int run_origin(const Options& options) {
  raise_open_files();
  Poller poller;
  Origin origin(poller, static_cast<std::uint16_t>(number(options, "origin", 0)));
  bool stop = false;
  const auto report = [&](const char* key) {
    JsonWriter json;
    json.object().key(key).object();
    json.key("cpu_ms").number(cpu_ms());
    origin.write(json);
    json.end().end();
    print_line(json.str());
  };
  Commands commands(poller, [&](std::string_view line) {
    if (line == "stop") {
      stop = true;
    } else if (line == "progress") {
      report("progress");
    } else if (auto rest = after(line, "seen")) {
      JsonWriter json;
      json.object().key("seen").array();
      while (!rest->empty()) {
        rest->remove_prefix(1);
        std::uint64_t sequence = 0;
        const auto parsed = std::from_chars(rest->data(), rest->data() + rest->size(), sequence);
        if (parsed.ec != std::errc{}) break;
        json.number(origin.times_seen(sequence));
        rest->remove_prefix(static_cast<std::size_t>(parsed.ptr - rest->data()));
      }
      json.end().end();
      print_line(json.str());
    }
  });
  print_line("{\"ready\":true}");
  while (!stop) poller.wait(1000);
  report("result");
  return 0;
}

int run_chopper(const Options& options) {
  raise_open_files();
  Poller poller;
  Chopper chopper(poller, static_cast<std::uint16_t>(number(options, "chop", 0)), options.targets.front(),
                  static_cast<std::size_t>(number(options, "singles", 200)));
  bool stop = false;
  Commands commands(poller, [&](std::string_view line) { stop = stop || line == "stop"; });
  print_line("{\"ready\":true}");
  while (!stop) {
    poller.wait(1);
    chopper.tick();
  }
  print_line("{\"result\":{}}");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  Options options;
  if (read_options(argc, argv, options)) {
    if (options.single.contains("origin")) return run_origin(options);
    if (options.single.contains("naive-server")) {
      return run_naive_server(static_cast<std::uint16_t>(number(options, "naive-server", 0)),
                              static_cast<int>(number(options, "workers", 4)),
                              static_cast<int>(number(options, "generation-ms", 35)));
    }
    if (options.single.contains("udp-origin")) {
      return run_udp_origin(static_cast<std::uint16_t>(number(options, "udp-origin", 0)));
    }
    if (options.single.contains("flows") && !options.targets.empty()) {
      return run_flow_load({.flows = static_cast<std::size_t>(number(options, "flows", 1)),
                            .rate = number(options, "rate", 1000),
                            .seconds = number(options, "seconds", 10),
                            .bytes = static_cast<std::size_t>(number(options, "bytes", 200))},
                           options.targets.front());
    }
    if (!options.targets.empty()) return options.single.contains("chop") ? run_chopper(options) : run_load(options);
  }
  std::fputs(kUsage, stderr);
  return 2;
}
