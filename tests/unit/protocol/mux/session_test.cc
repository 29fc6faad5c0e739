#include "common/protocol/mux/session.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/vectors.h"
#include "tests/unit/protocol/mux/recorder.h"

namespace ebb::mux {
namespace {

using test::Dice;
using test::frames_of;
using test::Recorder;
using test::unhex;
using Lines = std::vector<std::string>;

const Target kWeb{Network::tcp, IpAddress::from_v4({127, 0, 0, 1}), 80};

/// Everything real programs were seen to send, in one byte stream.
Bytes everything() {
  Bytes out;
  const auto add = [&out](const Bytes& frame) { out.insert(out.end(), frame.begin(), frame.end()); };
  for (const char* file : {"mux/frames_valid.json", "mux/frames_extended.json"}) {
    for (const auto& frame : test::load_vectors(file)["frames"]) add(frame["hex"].hex());
  }
  for (const char* file :
       {"mux/captured_v2ray434_bridge.json", "mux/captured_v2ray434_portal.json", "mux/captured_xray.json"}) {
    for (const auto& frame : test::load_vectors(file)["frames"]) {
      if (!frame.has("hex_truncated")) add(frame["hex"].hex());
    }
  }
  return out;
}

/// Feeds `in` in pieces whose sizes `next` chooses; taking the output only at the end keeps the answers comparable.
template <class Next>
std::pair<Lines, Lines> run(Role role, ConstSpan in, Next next) {
  Session session(role);
  Recorder log;
  while (!in.empty()) {
    const auto piece = in.first(std::min<std::size_t>(in.size(), next()));
    EXPECT_TRUE(session.feed(piece, log).has_value());
    in = in.subspan(piece.size());
  }
  EXPECT_TRUE(session.at_frame_border());
  return {log.lines, frames_of(session.take_output())};
}

TEST(MuxSession, SeesTheSameHoweverTheInputIsCut) {
  const auto all = everything();
  for (const auto role : {Role::acceptor, Role::opener}) {
    const auto whole = run(role, all, [&] { return all.size(); });
    if (role == Role::acceptor) {
      EXPECT_GT(whole.first.size(), 20U);
    }
    EXPECT_EQ(run(role, all, [] { return 1; }), whole);
    for (std::size_t cut = 1; cut < all.size(); ++cut) {
      std::size_t piece = 0;
      ASSERT_EQ(run(role, all, [&] { return piece++ == 0 ? cut : all.size(); }), whole) << "cut at " << cut;
    }
    for (std::uint64_t seed = 1; seed <= 200; ++seed) {
      Dice dice{seed};
      ASSERT_EQ(run(role, all, [&] { return 1 + dice.below(1 + dice.below(300)); }), whole) << "seed " << seed;
    }
  }
}

TEST(MuxSession, PassesOnTcpDataBeforeTheFrameIsComplete) {
  Session session(Role::acceptor);
  Recorder log;
  ASSERT_TRUE(session.feed(unhex("000c00020101010050017f000001ffff61"), log));
  EXPECT_EQ(log.lines, (Lines{"open 2 tcp:127.0.0.1:80", "data 2 61"}));
  EXPECT_FALSE(session.at_frame_border());
}

TEST(MuxSession, CollectsADatagramWhole) {
  Session session(Role::acceptor);
  Recorder log;
  Bytes frame = unhex("000c00020101020050017f000001fffe");
  frame.resize(frame.size() + 0xfffe, 0x7a);
  for (const auto byte : frame) ASSERT_TRUE(session.feed(ConstSpan(&byte, 1), log));
  ASSERT_EQ(log.lines.size(), 2U);
  EXPECT_EQ(log.lines[1].size(), std::string("gram 2 ").size() + 2 * 0xfffe);
}

TEST(MuxSession, TakesThePacketAddressOfAnXrayKeepAndIgnoresABrokenOne) {
  Session session(Role::acceptor);
  Recorder log;
  ASSERT_TRUE(session.feed(unhex("000c00090101020035017f000001000161"      // New UDP 9 with "a"
                                 "000c000902010214e901cb0071090003706b74"  // Keep with an address
                                 "000c00090201020050097f000001000141"      // broken address type
                                 "0004000902010000"                        // nothing
                                 "00040009020100024242"),                  // classic Keep
                           log));
  EXPECT_EQ(log.lines, (Lines{"open 9 udp:127.0.0.1:53", "gram 9 61", "gram 9 udp:203.0.113.9:5353 706b74", "gram 9 41",
                              "gram 9 4242"}));
}

TEST(MuxSession, AnswersDataForUnknownIdsWithOneEndABatch) {
  Session session(Role::acceptor);
  Recorder log;
  ASSERT_TRUE(session.feed(unhex("0004004d020100027878"
                                 "0004004d020100027878"
                                 "0004ffff02010000"
                                 "0004004e0200"
                                 "0004004f0300"),
                           log));
  EXPECT_EQ(frames_of(session.take_output()), (Lines{"0004004d0300", "0004ffff0300"}));
  ASSERT_TRUE(session.feed(unhex("0004004d020100027878"), log));
  EXPECT_EQ(frames_of(session.take_output()), (Lines{"0004004d0300"}));
  EXPECT_EQ(session.counters().unknown_data, 4U);
}

TEST(MuxSession, BoundsWhatUnknownIdsMakeItOwe) {
  Session session(Role::opener);
  Recorder log;
  Bytes flood;
  for (std::uint32_t i = 0; i < 40000; ++i) {
    Bytes frame(kKeepHead);
    write_keep_head(frame, StreamId{static_cast<std::uint16_t>(i)}, 0);
    flood.insert(flood.end(), frame.begin(), frame.end());
  }
  ASSERT_TRUE(session.feed(flood, log));
  EXPECT_LE(session.take_output().size(), (std::size_t{64} << 10) + kEndFrame);
}

TEST(MuxSession, EndsATunnelWhoseAnswersAreNeverTaken) {
  Session session(Role::acceptor, {.max_streams = 0});
  Recorder log;
  const auto surplus = unhex("000c00020100010050017f000001");
  Decoded<> fed;
  std::size_t frames = 0;
  while (fed && frames < 1000000) fed = session.feed(surplus, log), ++frames;
  EXPECT_FALSE(fed);
  EXPECT_LT(frames, 200000U);
}

TEST(MuxSession, AnswersEndOncePerStream) {
  Session bridge(Role::acceptor);
  Recorder log;
  ASSERT_TRUE(bridge.feed(unhex("000c00020100010050017f000001"
                                "000400020300"
                                "000400020300"),
                          log));
  EXPECT_EQ(log.lines, (Lines{"open 2 tcp:127.0.0.1:80", "end 2", "stray 2"}));
  EXPECT_EQ(frames_of(bridge.take_output()), (Lines{"000400020302"}));

  Session portal(Role::opener);
  Bytes head(kMaxHead);
  log.lines.clear();
  ASSERT_TRUE(portal.open(kWeb, nullptr, head));
  ASSERT_TRUE(portal.open(kWeb, nullptr, head));
  ASSERT_TRUE(portal.feed(unhex("00040001030100024141"
                                "000400020302"),
                          log));
  EXPECT_EQ(log.lines, (Lines{"end 1", "end! 2"}));
  EXPECT_EQ(frames_of(portal.take_output()), (Lines{"000400010300", "000400020302"}));
  EXPECT_EQ(portal.live_streams(), 0U);
}

TEST(MuxSession, KeepsQuietForSilentStreams) {
  Session session(Role::acceptor);
  Recorder log;
  log.then = [&](StreamId id) { session.set_silent(id); };
  ASSERT_TRUE(session.feed(unhex("000c00020100010050017f000001"
                                 "000400020300"),
                           log));
  EXPECT_TRUE(session.take_output().empty());
}

TEST(MuxSession, ReplacesAStreamWhoseIdIsOpenedAgain) {
  Session session(Role::acceptor);
  Recorder log;
  ASSERT_TRUE(session.feed(unhex("000c00020101010050017f000001000161"
                                 "000c00020101010051017f000001000162"),
                           log));
  EXPECT_EQ(log.lines,
            (Lines{"open 2 tcp:127.0.0.1:80", "data 2 61", "end! 2", "open 2 tcp:127.0.0.1:81", "data 2 62"}));
  EXPECT_EQ(session.counters().reopened, 1U);
  EXPECT_TRUE(session.take_output().empty());
}

TEST(MuxSession, RefusesStreamsBeyondItsTable) {
  Session session(Role::acceptor, {.max_streams = 1});
  Recorder log;
  ASSERT_TRUE(session.feed(unhex("000c00020101010050017f000001000161"
                                 "000c00030101010050017f000001000162"),
                           log));
  EXPECT_EQ(log.lines, (Lines{"open 2 tcp:127.0.0.1:80", "data 2 61"}));
  EXPECT_EQ(frames_of(session.take_output()), (Lines{"000400030302"}));
  EXPECT_EQ(session.counters().surplus, 1U);
}

TEST(MuxSession, IgnoresNewSentToAnOpener) {
  Session session(Role::opener);
  Recorder log;
  ASSERT_TRUE(session.feed(unhex("000c01f50101011f90017f00000100027a7a"
                                 "0004004d020100027878"),
                           log));
  EXPECT_TRUE(log.lines.empty());
  EXPECT_EQ(frames_of(session.take_output()), (Lines{"0004004d0300"}));
  EXPECT_EQ(session.counters().ignored_new, 1U);
}

TEST(MuxSession, NeverUsesAnIdTwice) {
  Session session(Role::opener);
  Bytes head(kMaxHead);
  for (std::size_t i = 1; i <= 65000; ++i) {
    const auto opened = session.open(kWeb, nullptr, head);
    ASSERT_TRUE(opened && opened->stream.value == i && opened->head_bytes == 14);
    session.close(opened->stream);
  }
  EXPECT_FALSE(session.ids_left());
  EXPECT_FALSE(session.open(kWeb, nullptr, head));
}

TEST(MuxSession, SpendsNoIdOnATargetThatCannotBeWritten) {
  Session session(Role::opener, {.max_streams = 1});
  Bytes head(kMaxHead);
  EXPECT_FALSE(session.open(Target{Network::tcp, std::string("b\xc3\xbc"), 1}, nullptr, head));
  EXPECT_EQ(session.ids_used(), 0U);
  EXPECT_TRUE(session.open(kWeb, nullptr, head));
  EXPECT_FALSE(session.open(kWeb, nullptr, head)) << "the table holds one";
  EXPECT_EQ(session.ids_used(), 1U);
}

TEST(MuxSession, HandsBackTheUserAtEveryEvent) {
  struct Users : Recorder {
    void on_data(StreamId, void* user, ConstSpan) override { seen.push_back(user); }
    void on_end(StreamId, void* user, bool) override { seen.push_back(user); }
    std::vector<void*> seen;
  } log;
  Session session(Role::opener);
  Bytes head(kMaxHead);
  int visitor = 0, other = 0;
  const auto id = session.open(kWeb, &visitor, head)->stream;
  ASSERT_TRUE(session.feed(unhex("000400010201000161"), log));
  session.set_user(id, &other);
  EXPECT_EQ(session.user(id), &other);
  EXPECT_EQ(session.network(id), Network::tcp);
  ASSERT_TRUE(session.feed(unhex("000400010300"), log));
  EXPECT_EQ(log.seen, (std::vector<void*>{&visitor, &other}));
  EXPECT_EQ(session.user(id), nullptr);
  EXPECT_EQ(session.network(id), std::nullopt);
}

TEST(MuxSession, SurvivesClosingStreamsInsideItsCallbacks) {
  const auto input = unhex(
      "000c00020101010050017f0000010003616263"  // New 2 "abc"
      "000c00030101010050017f0000010003646566"  // New 3 "def"
      "00040002020100036768690004000302010001"
      "6a"
      "000400020300"
      "000400030300");
  for (const std::uint16_t victim : {2, 3}) {
    for (std::size_t at = 1; at < 8; ++at) {
      for (std::size_t piece = 1; piece < 4; ++piece) {
        Session session(Role::acceptor);
        Recorder log;
        std::size_t calls = 0;
        log.then = [&](StreamId) {
          if (++calls == at) session.close(StreamId{victim});
        };
        for (auto in = ConstSpan(input); !in.empty(); in = in.subspan(std::min(piece, in.size()))) {
          ASSERT_TRUE(session.feed(in.first(std::min(piece, in.size())), log));
        }
        EXPECT_EQ(session.live_streams(), 0U);
        EXPECT_TRUE(session.at_frame_border());
      }
    }
  }
}

TEST(MuxSession, DeliversMessagesWholeOnAStreamMadeForThem) {
  Session session(Role::acceptor);
  Recorder log;
  log.then = [&](StreamId id) { session.set_message_stream(id); };
  const auto frame = unhex("000c00040101010050017f00000100020801");
  for (const auto byte : frame) ASSERT_TRUE(session.feed(ConstSpan(&byte, 1), log));
  EXPECT_EQ(log.lines, (Lines{"open 4 tcp:127.0.0.1:80", "gram 4 0801"}));
}

TEST(MuxSession, TellsAFinBehindItsDataHoweverItIsCut) {
  Bytes head(kMaxHead);
  const Bytes in = unhex("0004000102050002686900040001020100026869");
  for (std::size_t cut = 1; cut < 10; ++cut) {
    Session session(Role::opener);
    Recorder log;
    ASSERT_TRUE(session.open(kWeb, nullptr, head));
    session.agree_half_close(StreamId{1});
    ASSERT_TRUE(session.feed(ConstSpan(in).first(cut), log));
    ASSERT_TRUE(session.feed(ConstSpan(in).subspan(cut, 10 - cut), log));
    EXPECT_EQ(log.lines, (Lines{"data 1 6869", "fin 1"})) << cut;
    EXPECT_TRUE(session.live(StreamId{1}));
    ASSERT_TRUE(session.feed(ConstSpan(in).subspan(10), log));
    EXPECT_EQ(log.lines.back(), "end! 1") << "data behind a FIN is a fault";
    EXPECT_EQ(session.counters().after_fin, 1U);
    EXPECT_EQ(frames_of(session.take_output()), Lines{"000400010302"});
  }
}

TEST(MuxSession, ForgetsAStreamWhenBothHaveSentTheirFin) {
  for (const bool ours_first : {true, false}) {
    Session session(Role::opener);
    Recorder log;
    Bytes head(kMaxHead);
    ASSERT_TRUE(session.open(kWeb, nullptr, head));
    session.agree_half_close(StreamId{1});
    if (ours_first) {
      EXPECT_FALSE(session.fin_sent(StreamId{1}));
    }
    ASSERT_TRUE(session.feed(unhex("000400010204"), log));
    EXPECT_EQ(log.lines, Lines{"fin 1"});
    if (!ours_first) {
      EXPECT_TRUE(session.live(StreamId{1}));
      EXPECT_TRUE(session.fin_sent(StreamId{1}));
    }
    EXPECT_FALSE(session.live(StreamId{1}));
    EXPECT_TRUE(session.take_output().empty());
  }
}

TEST(MuxSession, IgnoresAFinThatWasNotAgreed) {
  Session session(Role::opener);
  Recorder log;
  Bytes head(kMaxHead);
  ASSERT_TRUE(session.open(kWeb, nullptr, head));
  ASSERT_TRUE(session.feed(unhex("00040001020400040001020100026869000400090204"), log));
  EXPECT_EQ(log.lines, Lines{"data 1 6869"});
  EXPECT_TRUE(session.take_output().empty());
}

/// End + Error for stream 1 with `data` behind it, then data for it.
std::pair<Lines, Lines> end_with(std::string_view data, std::size_t piece, bool agreed) {
  Session session(Role::opener);
  if (agreed) session.agree_end_data();
  Recorder log;
  Bytes out(kMaxHead);
  EXPECT_TRUE(session.open(kWeb, nullptr, out));
  log.then = [&](StreamId) { log.lines.push_back("with " + to_hex(session.end_data())); };
  const Bytes in = unhex("0004000103" + std::string(data) + "000400010201000178");
  for (auto rest = ConstSpan(in); !rest.empty(); rest = rest.subspan(std::min(piece, rest.size()))) {
    EXPECT_TRUE(session.feed(rest.first(std::min(piece, rest.size())), log));
  }
  EXPECT_TRUE(session.end_data().empty());
  return {log.lines, frames_of(session.take_output())};
}

TEST(MuxSession, HoldsTheDataOfAnAbortWhileItTellsOfIt) {
  const Lines answers{"000400010302", "000400010300"};  // to End, and to data for an id that is over
  for (std::size_t piece = 1; piece < 20; ++piece) {
    EXPECT_EQ(end_with("030003016869", piece, true), std::pair(Lines{"end! 1", "with 016869"}, answers)) << piece;
    EXPECT_EQ(end_with("030003016869", piece, false), std::pair(Lines{"end! 1", "with "}, answers)) << piece;
    EXPECT_EQ(end_with("030000", piece, true), std::pair(Lines{"end! 1", "with "}, answers)) << piece;
  }
  EXPECT_EQ(end_with("010003016869", 1, true).first, (Lines{"end 1", "with "})) << "no error";
}

TEST(MuxSession, KeepsALittleOfTheDataOfAnAbort) {
  std::string many = "032710";  // 10000 bytes
  for (int i = 0; i < 10000; ++i) many += "61";
  EXPECT_EQ(end_with(many, 700, true).first.back().size(), 5 + 2 * Session::kMaxEndData);
}

TEST(MuxSession, DropsTheDataOfAnAbortOfNobodysStream) {
  Session session(Role::opener);
  session.agree_end_data();
  Recorder log;
  Bytes out(kMaxHead);
  session.open(kWeb, nullptr, out);
  ASSERT_TRUE(session.feed(unhex("00040009030300020161"), log));
  ASSERT_TRUE(session.feed(unhex("000400010303000201"), log));
  EXPECT_EQ(log.lines, Lines{"stray 9"});
  session.close(StreamId{1});  // here, while its end is under way
  ASSERT_TRUE(session.feed(unhex("61"), log));
  EXPECT_EQ(log.lines, (Lines{"stray 9", "stray 1"}));
  EXPECT_TRUE(session.end_data().empty());
  EXPECT_TRUE(session.at_frame_border());
}

TEST(MuxSession, CountsHeldStreamsAsLongAsTheyLive) {
  Session session(Role::opener);
  Recorder log;
  Bytes head(kMaxHead);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(session.open(kWeb, nullptr, head));
  for (const std::uint16_t id : {1, 2, 3}) session.set_held(StreamId{id});
  session.set_held(StreamId{3});
  EXPECT_EQ(session.held_streams(), 3U);
  session.close(StreamId{1});
  ASSERT_TRUE(session.feed(unhex("000400020300"), log));
  EXPECT_EQ(session.held_streams(), 1U);
}

}  // namespace
}  // namespace ebb::mux
