#include "common/protocol/mux/frame.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/vectors.h"
#include "tests/unit/protocol/mux/recorder.h"

namespace ebb::mux {
namespace {

using test::Json;
using test::load_vectors;
using test::unhex;

const std::map<std::string, Status> kStatuses{
    {"New", Status::open}, {"Keep", Status::keep}, {"End", Status::end}, {"KeepAlive", Status::keep_alive}};

Target target_of(const Json& decoded) {
  Target out;
  out.network = decoded["network"].text() == "tcp" ? Network::tcp : Network::udp;
  out.port = static_cast<std::uint16_t>(decoded["port"].number());
  out.host = parse_host(decoded["address"].text());
  EXPECT_EQ(out.ip() == nullptr, decoded["addr_type"].text() == "domain");
  return out;
}

/// Decodes `frame` and compares every field; returns the head's size.
std::size_t expect_decoded(ConstSpan frame, const Json& decoded) {
  const auto step = decode_head(frame);
  EXPECT_TRUE(step && step->message);
  if (!step || !step->message) return 0;
  const auto& head = *step->message;
  EXPECT_EQ(head.stream.value, decoded["session"].number());
  EXPECT_EQ(head.status, kStatuses.at(decoded["status"].text()));
  EXPECT_EQ(head.options, decoded["option"].number());
  EXPECT_EQ(head.meta.size() + 4, static_cast<std::size_t>(decoded["meta_len"].number()));
  EXPECT_EQ(head.has_data(), decoded.has("data_len"));
  if (decoded.has("data_len")) {
    EXPECT_EQ(head.data_bytes, static_cast<std::size_t>(decoded["data_len"].number()));
  }
  if (head.status == Status::open) {
    const auto open = decode_open(head.meta);
    EXPECT_TRUE(open.has_value());
    if (open) {
      EXPECT_EQ(open->target, target_of(decoded));
      EXPECT_EQ(to_hex(open->trailing), decoded.has("trailing") ? decoded["trailing"].text() : "");
    }
  } else if (decoded.has("network")) {
    EXPECT_EQ(packet_address(head.meta), target_of(decoded));
  }
  return step->used;
}

TEST(MuxFrame, DecodesWhatRealEncodersWrite) {
  for (const char* file : {"mux/frames_valid.json", "mux/frames_extended.json"}) {
    for (const auto& frame : load_vectors(file)["frames"]) {
      SCOPED_TRACE(frame["name"].text());
      const auto bytes = frame["hex"].hex();
      const auto used = expect_decoded(bytes, frame["decoded"]);
      if (frame["decoded"].has("data")) {
        EXPECT_EQ(to_hex(ConstSpan(bytes).subspan(used)), frame["decoded"]["data"].text());
      }
    }
  }
}

TEST(MuxFrame, DecodesCapturedFrames) {
  for (const char* file :
       {"mux/captured_v2ray434_bridge.json", "mux/captured_v2ray434_portal.json", "mux/captured_xray.json"}) {
    for (const auto& frame : load_vectors(file)["frames"]) {
      SCOPED_TRACE(frame["case"].text() + " " + frame["hex"].text());
      EXPECT_GT(expect_decoded(frame["hex"].hex(), frame), 0U);
    }
  }
}

TEST(MuxFrame, WritesTheBytesOfRealEncoders) {
  for (const auto& frame : load_vectors("mux/frames_valid.json")["frames"]) {
    const auto& decoded = frame["decoded"];
    SCOPED_TRACE(frame["name"].text());
    const auto expected = frame["hex"].hex();
    const StreamId id{static_cast<std::uint16_t>(decoded["session"].number())};
    const auto data = decoded.has("data_len") ? static_cast<std::size_t>(decoded["data_len"].number()) : 0;
    Bytes out(kMaxHead);
    const auto& status = decoded["status"].text();
    const auto option = decoded["option"].number();
    if (status == "New") {
      out.resize(write_new(out, id, target_of(decoded), data));
    } else if (status == "Keep" && option == kOptionData) {
      out.resize(kKeepHead);
      write_keep_head(out, id, data);
    } else if (status == "End" && option != kOptionData) {
      out.resize(kEndFrame);
      write_end(out, id, option == kOptionError);
    } else {
      continue;  // a frame we never write
    }
    EXPECT_EQ(to_hex(out), to_hex(ConstSpan(expected).first(expected.size() - data)));
  }
}

TEST(MuxFrame, AsksForMoreAtEveryPrefix) {
  for (const auto& frame : load_vectors("mux/frames_valid.json")["frames"]) {
    const auto bytes = frame["hex"].hex();
    const auto whole = decode_head(bytes);
    for (std::size_t cut = 0; cut < whole->used; ++cut) {
      const auto step = decode_head(ConstSpan(bytes).first(cut));
      ASSERT_TRUE(step && !step->message && step->used == 0) << frame["name"].text() << " cut at " << cut;
    }
  }
}

TEST(MuxFrame, WritesTheHelloMarkerBehindTheTarget) {
  const auto expected = load_vectors("reverse/extension_tolerance.json")["hello_new_frame"].hex();
  const Target control{Network::udp, std::string("reverse.internal.v2ray.com"), 0};
  Bytes out(kMaxHead);
  out.resize(write_new(out, StreamId{1}, control, 0, kHelloMarker));
  EXPECT_EQ(to_hex(out), to_hex(expected));
  EXPECT_TRUE(has_hello_marker(decode_open(decode_head(out)->message->meta)->trailing));
  EXPECT_FALSE(has_hello_marker(unhex("004d5852")));
  EXPECT_FALSE(has_hello_marker(unhex("004d585202")));
  EXPECT_TRUE(has_hello_marker(unhex("004d585201ff")));
}

TEST(MuxFrame, RefusesTargetsNoPeerAccepts) {
  Bytes out(kMaxHead);
  const auto write = [&out](const std::string& name) {
    return write_new(out, StreamId{1}, Target{Network::tcp, name, 1}, 0);
  };
  EXPECT_EQ(write(""), 0U);
  EXPECT_EQ(write("b\xc3\xbc"), 0U);
  EXPECT_EQ(write("a b"), 0U);
  EXPECT_EQ(write(std::string(256, 'a')), 0U);
  EXPECT_GT(write(std::string(255, 'a')), 0U);
  EXPECT_EQ(write_new(out, StreamId{1}, Target{Network::tcp, std::string(255, 'a'), 1}, 0, Bytes(300)), 0U);
  EXPECT_EQ(write_new(MutSpan(out).first(13), StreamId{1}, Target{Network::tcp, IpAddress{}, 1}, 0), 0U);
  EXPECT_EQ(write_new(MutSpan(out).first(14), StreamId{1}, Target{Network::tcp, IpAddress{}, 1}, 0), 14U);
}

/// "0201…(515 bytes)": the vector shows the start; the rest repeats its last byte.
Bytes expand(const std::string& hex) {
  const auto dots = hex.find("..(");
  if (dots == std::string::npos) return unhex(hex);
  auto out = unhex(hex.substr(0, dots));
  out.resize(std::stoul(hex.substr(dots + 3)), out.back());
  return out;
}

struct Outcome {
  bool fatal;
  bool border;
  std::vector<std::string> events, output;
};
Outcome feed(Role role, ConstSpan bytes) {
  Session session(role);
  test::Recorder log;
  const bool fatal = !session.feed(bytes, log).has_value();
  return {fatal, session.at_frame_border(), log.lines, test::frames_of(session.take_output())};
}

TEST(MuxFrame, JudgesOddFramesAsWrittenDown) {
  for (const auto& frame : load_vectors("mux/frames_malformed.json")["frames"]) {
    SCOPED_TRACE(frame["name"].text());
    const auto& expected = frame["expected_of_us"].text();
    const auto outcome = feed(Role::acceptor, frame["hex"].hex());
    EXPECT_EQ(outcome.fatal, expected.starts_with("fatal"));
    if (!outcome.fatal) {
      EXPECT_EQ(outcome.border, !expected.starts_with("incomplete"));
    }
    if (expected.find("127.0.0.1") != std::string::npos) {
      EXPECT_EQ(outcome.events[0], "open 2 tcp:127.0.0.1:80");
    }
    if (expected.find("192.0.2.1") != std::string::npos) {
      EXPECT_EQ(outcome.events[0], "open 2 tcp:192.0.2.1:80");
    }
    if (expected.find("::1") != std::string::npos) {
      EXPECT_EQ(outcome.events[0], "open 2 tcp:[::1]:80");
    }
  }
}

TEST(MuxFrame, KillsTheTunnelWhereV2rayDoes) {
  const auto file = load_vectors("mux/live_malformed.json");
  for (const auto& frame : file["portal_role"]) {
    SCOPED_TRACE("portal " + frame["name"].text());
    auto bytes = expand(frame["hex"].text());
    if (frame["name"].text() == "metalen_513") bytes.resize(515);
    const auto outcome = feed(Role::opener, bytes);
    EXPECT_EQ(outcome.fatal, frame["closed"].boolean());
    std::vector<std::string> expected;
    for (const auto& answer : frame["frames"]) expected.push_back(answer.text());
    EXPECT_EQ(outcome.output, expected);
  }
  for (const auto& frame : file["bridge_role"]) {
    const auto& name = frame["name"].text();
    SCOPED_TRACE("bridge " + name);
    const auto outcome = feed(Role::acceptor, expand(frame["hex"].text()));
    if (name == "udp_new_2049") {  // fatal for V2Ray, never for us
      EXPECT_FALSE(outcome.fatal);
      EXPECT_EQ(outcome.events.size(), 2U);
    } else if (frame["still_parses"].is_null()) {
      EXPECT_FALSE(outcome.fatal || outcome.border);
    } else {
      EXPECT_EQ(outcome.fatal, !frame["still_parses"].boolean());
    }
  }
}

TEST(MuxFrame, ReadsSourceAndLocalAsXrayDoes) {
  for (const auto& item : load_vectors("mux/source_local.json")["cases"]) {
    SCOPED_TRACE(item["name"].text());
    const auto parsed = decode_source_local(item["trailing"].hex());
    ASSERT_EQ(parsed.has_value(), !item["tunnel_closed"].boolean());
    if (!parsed || !parsed->source || !parsed->local) {
      if (parsed) {
        EXPECT_NE(item["bridge_saw"].text().find("source=unknown:"), std::string::npos);
      }
      continue;  // Xray takes both or none
    }
    EXPECT_NE(item["bridge_saw"].text().find("source=" + parsed->source->text()), std::string::npos);
    EXPECT_NE(item["bridge_saw"].text().find("local=" + parsed->local->text()), std::string::npos);
  }
}

TEST(MuxFrame, WritesSourceAndLocalAsXrayReadsThem) {
  const auto written = [](Network network, const VisitorAddress& visitor) {
    Bytes out(kMaxSourceLocal);
    out.resize(encode_source_local(out, network, visitor));
    return to_hex(out);
  };
  std::size_t compared = 0;
  for (const auto& item : load_vectors("mux/source_local.json")["cases"]) {
    SCOPED_TRACE(item["name"].text());
    const auto& name = item["name"].text();
    if (name != "source_local" && name != "source_only" && name != "source_v6") continue;
    const auto told = decode_source_local(item["trailing"].hex());
    ASSERT_TRUE(told);
    EXPECT_EQ(written(Network::tcp, visitor_of(*told)), item["trailing"].text());
    ++compared;
  }
  EXPECT_EQ(compared, 3U);
  const Endpoint v4{*IpAddress::parse("203.0.113.7"), 5555};
  const Endpoint v6{*IpAddress::parse("2001:db8::1"), 9};
  EXPECT_EQ(written(Network::udp, {v4, std::nullopt}), "0215b301cb007107");
  EXPECT_EQ(written(Network::udp, {v6, v6}).size(), 2 * kMaxSourceLocal);
  EXPECT_EQ(written(Network::tcp, {}), "");
  EXPECT_EQ(written(Network::tcp, {std::nullopt, v4}), "");  // an arrival without a visitor says nothing
}

TEST(MuxFrame, TakesAVisitorFromAddressesOnly) {
  const Endpoint local{*IpAddress::parse("192.0.2.1"), 443};
  const SourceLocal named{Target{Network::tcp, std::string("a.b"), 1}, Target{Network::tcp, local.ip, local.port}};
  EXPECT_EQ(visitor_of(named), (VisitorAddress{std::nullopt, local}));
  EXPECT_EQ(visitor_of({}), VisitorAddress{});
}

TEST(MuxFrame, APacketAddressGoesInFrontOfAKeepAndComesBack) {
  const std::vector<Target> addresses = {{Network::udp, IpAddress::from_v4({203, 0, 113, 9}), 5353},
                                         {Network::udp, *IpAddress::parse("2001:db8::1"), 1},
                                         {Network::udp, std::string("a.example"), 65535}};
  for (const auto& address : addresses) {
    SCOPED_TRACE(address.text());
    std::array<std::uint8_t, kMaxHead> out{};
    const auto written = write_keep_head(out, StreamId{7}, address, 513);
    ASSERT_GT(written, kKeepHead);
    for (std::size_t cut = 0; cut < written; ++cut) {
      const auto step = decode_head(ConstSpan(out).first(cut));
      ASSERT_TRUE(step && !step->message) << cut;
    }
    const auto step = decode_head(ConstSpan(out).first(written));
    ASSERT_TRUE(step && step->message);
    EXPECT_EQ(step->used, written);
    EXPECT_EQ(step->message->status, Status::keep);
    EXPECT_EQ(step->message->data_bytes, 513U);
    EXPECT_EQ(packet_address(step->message->meta), address);
  }
}

TEST(MuxFrame, NoPacketAddressThatNobodyCouldRead) {
  std::array<std::uint8_t, kMaxHead> out{};
  const Target good{Network::udp, IpAddress::from_v4({203, 0, 113, 9}), 5353};
  EXPECT_EQ(write_keep_head(out, StreamId{7}, Target{Network::tcp, good.host, 1}, 1), 0U);
  EXPECT_EQ(write_keep_head(out, StreamId{7}, Target{Network::udp, std::string("no good"), 1}, 1), 0U);
  EXPECT_EQ(write_keep_head(out, StreamId{7}, Target{Network::udp, std::string(), 1}, 1), 0U);
  EXPECT_EQ(write_keep_head(out, StreamId{7}, good, kMaxDataEver + 1), 0U);
  EXPECT_EQ(write_keep_head(MutSpan(out).first(15), StreamId{7}, good, 1), 0U);
}

}  // namespace
}  // namespace ebb::mux
