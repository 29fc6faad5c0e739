// The step lists of tests/vectors/reverse/scripts.json, as far as they are about frames and time: verified against the
// real programs, run here against our tunnel ends with a small stand-in for the data plane.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "common/reverse/bridge_plan.h"
#include "tests/support/vectors.h"
#include "tests/unit/reverse/tunnel_clock.h"

namespace ebb::reverse {
namespace {

using test::Json;

/// What the targets behind the bridge do in these scripts, chosen by the first bytes of a stream.
struct Origin : test::Recorder {
  std::function<void(StreamId, ConstSpan)> reply;
  std::function<void(StreamId, bool)> end;
  bool refuse = false;

  void on_open(StreamId stream, const Target& target, ConstSpan trailing) override {
    Recorder::on_open(stream, target, trailing);
    if (refuse) end(stream, true);
  }
  void on_data(StreamId stream, void* user, ConstSpan piece) override {
    Recorder::on_data(stream, user, piece);
    const auto text = std::string(as_text(piece));
    if (text == "hello") reply(stream, as_bytes("E:hello"));
    if (text == "finme") reply(stream, as_bytes("bye")), end(stream, false);
    if (text == "rstme") end(stream, true);
  }
};

/// One end under test, what it wrote and when.
struct Stage {
  virtual ~Stage() = default;
  virtual void send(const Bytes& bytes) = 0;
  virtual void pass(Duration time) = 0;
  virtual bool alive() const = 0;
  virtual bool wants_tunnel() const { return false; }
  virtual void external(const std::string&) {}

  void take(Bytes bytes) {
    for (auto& frame : test::frames_of(bytes)) written.push_back(std::move(frame));
  }
  /// Waits until a frame matches (?? = any byte) and forgets everything up to it.
  bool wait_for(const std::string& pattern, Duration limit) {
    for (Duration waited{}; waited <= limit; waited += milliseconds(10), pass(milliseconds(10))) {
      for (std::size_t i = 0; i < written.size(); ++i) {
        if (!matches(written[i], pattern)) continue;
        written.erase(written.begin() + static_cast<std::ptrdiff_t>(i));
        return true;
      }
    }
    return false;
  }
  bool silent_on(std::uint16_t stream, Duration time) {
    pass(time);
    for (const auto& frame : written) {
      if (mux::decode_head(test::unhex(frame))->message->stream.value == stream) return false;
    }
    return true;
  }
  static bool matches(const std::string& frame, const std::string& pattern) {
    if (frame.size() < pattern.size()) return false;
    for (std::size_t i = 0; i < pattern.size(); ++i) {
      if (pattern[i] != '?' && pattern[i] != frame[i]) return false;
    }
    return true;
  }
  Lines written;
};

struct BridgeStage final : Stage {
  Bench<BridgeTunnel> end{BridgeTunnelSettings{.domain = "private.example"}};
  BridgePlan plan;
  Origin origin;

  BridgeStage() {
    origin.reply = [this](StreamId stream, ConstSpan data) {
      Bytes frame(mux::kKeepHead);
      mux::write_keep_head(frame, stream, data.size());
      frame.insert(frame.end(), data.begin(), data.end());
      take(frame);
    };
    origin.end = [this](StreamId stream, bool error) {
      Bytes frame(mux::kEndFrame);
      mux::write_end(frame, stream, error);
      take(frame);
      end.tunnel.close(stream, end.now);
    };
  }
  void send(const Bytes& bytes) override {
    if (!end.tunnel.feed(bytes, end.now, origin)) end.fatal = true;
    take(end.tunnel.take_output());
  }
  void pass(Duration time) override { end.pass(time), take(end.tunnel.take_output()); }
  bool alive() const override { return !end.fatal && end.tunnel.state() != BridgeTunnel::State::dead; }
  bool wants_tunnel() const override {
    const bool active = end.tunnel.state() == BridgeTunnel::State::active;
    const BridgeLoad load{.active = active ? 1U : 0U, .draining = active ? 0U : 1U, .sessions = end.tunnel.sessions()};
    return plan.dials_due(load, end.now) > 0;
  }
};

struct PortalStage final : Stage {
  Bench<PortalTunnel> end{PortalTunnelSettings{.domain = "private.example", .forced = Dialect::v2ray}};

  PortalStage() { take(end.tunnel.take_output()); }
  void send(const Bytes& bytes) override {
    end.feed_bytes(bytes);
    take(end.tunnel.take_output());
  }
  void pass(Duration time) override { end.pass(time), take(end.tunnel.take_output()); }
  bool alive() const override { return !end.fatal && end.tunnel.state() != PortalTunnel::State::dead; }
  void external(const std::string& what) override {
    const auto& log = end.events.lines;
    if (what.starts_with("connect")) {
      Bytes frame(mux::kMaxHead);
      const auto opened = end.tunnel.open(kWeb, nullptr, frame);
      ASSERT_TRUE(opened);
      frame.resize(opened->head_bytes);
      if (what.find("send data") == std::string::npos) take(frame);  // else: not what the script looks at
    } else if (what == "reads late") {
      EXPECT_EQ(log, (Lines{"data 2 6c617465"}));
    } else if (what == "reads EOF") {
      EXPECT_EQ(log.back(), "end 2");
    } else {
      FAIL() << "a step this test does not know: " << what;
    }
  }
};

Duration seconds_in(const Json& step, const char* key) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(step[key].real()));
}

void play(Stage& stage, const Json& steps, const Json& script) {
  for (const auto& step : steps) {
    if (step.has("send")) {
      stage.send(step["send"].hex());
    } else if (step.has("send_many")) {
      for (std::uint16_t id = 2; id <= 16; ++id) {
        Bytes frame(mux::kMaxHead);
        frame.resize(mux::write_new(frame, StreamId{id}, kWeb, 0));
        stage.send(frame);
      }
    } else if (step.has("expect")) {
      EXPECT_TRUE(stage.wait_for(step["expect"].text(), seconds_in(step, "within_s"))) << step["expect"].text();
    } else if (step.has("expect_prefix")) {
      EXPECT_TRUE(stage.wait_for(step["expect_prefix"].text(), seconds_in(step, "within_s")));
    } else if (step.has("expect_nothing_for_session")) {
      const auto id = static_cast<std::uint16_t>(step["expect_nothing_for_session"].number());
      EXPECT_TRUE(stage.silent_on(id, seconds_in(step, "during_s"))) << "session " << id;
    } else if (step.has("expect_new_tunnel")) {  // ours: at once
      if (!step["expect_new_tunnel"].boolean()) stage.pass(seconds_in(step, "during_s"));
      EXPECT_EQ(stage.wants_tunnel(), step["expect_new_tunnel"].boolean());
    } else if (step.has("external")) {
      stage.external(step["external"].text());
    } else {
      ASSERT_TRUE(step.has("then"));  // "tunnel still works": it answers
      stage.send(test::unhex("0004fffd02010000"));
      EXPECT_TRUE(stage.wait_for("0004fffd0300", seconds(0)));
    }
    EXPECT_TRUE(stage.alive()) << script["name"].text();
  }
}

TEST(ReverseScripts, OursDoesWhatTheScriptsSay) {
  const auto file = test::load_vectors("reverse/scripts.json");
  std::map<std::string, const Json*> by_name;
  for (const auto& script : file["scripts"]) by_name[script["name"].text()] = &script;
  std::set<std::string> played;
  for (const auto& [name, script] : by_name) {
    SCOPED_TRACE(name);
    if (name == "portal_no_bridge") continue;  // no tunnel at all: visitors wait as offers, see offer_intake_test.cc
    const Json* steps = &(*script)["steps"];
    const auto& ours = (*script)["ours"];
    if (ours.kind() == Json::Kind::object && ours.has("steps")) {
      steps = &ours["steps"];
      if (steps->kind() == Json::Kind::text) steps = &(*by_name.at(steps->text()))["steps"];
    }
    const auto& role = (*script)["role_under_test"].text();
    if (role != "portal") {
      BridgeStage stage;
      stage.origin.refuse = name == "bridge_refused_target";
      play(stage, *steps, *script);
      played.insert(name);
    }
    if (role != "bridge") {
      PortalStage stage;
      if (name != "legacy_ping") play(stage, *steps, *script);  // towards a portal with id 0000: below
      played.insert(name);
    }
  }
  EXPECT_EQ(played.size(), by_name.size() - 1);
}

TEST(ReverseScripts, OurPortalAnswersTheLegacyPing) {
  PortalStage stage;
  stage.send(test::unhex("0004000002010000"));
  EXPECT_TRUE(stage.wait_for("000400000300", seconds(0)));
}

}  // namespace
}  // namespace ebb::reverse
