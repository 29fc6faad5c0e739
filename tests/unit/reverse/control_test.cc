#include "common/reverse/control.h"

#include <gtest/gtest.h>

#include "tests/support/vectors.h"
#include "tests/unit/protocol/mux/recorder.h"

namespace ebb::reverse {
namespace {

using test::unhex;

Control full_message() {
  Control message;
  message.state = kStateDrain;
  message.random = {1, 2, 3};
  message.hello = Hello{1, 0x80, 262144, 65535, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, 7, 9000};
  message.windows = {{2, 131072}, {3, std::uint64_t{1} << 40}};
  message.ping = Ping{0x1122334455667788, true};
  message.notice = Notice{kNoticeRestart, "restart", 500};
  return message;
}

TEST(ReverseControl, ReadsAndWritesWhatV2rayDoes) {
  for (const auto& vector : test::load_vectors("reverse/control_messages.json")["messages"]) {
    const auto bytes = vector["hex"].hex();
    SCOPED_TRACE(vector["hex"].text());
    const auto message = decode_control(bytes);
    if (vector["hex"].text() == "ffffff") {
      EXPECT_FALSE(message);
      continue;
    }
    ASSERT_TRUE(message);
    if (vector.has("state")) {
      EXPECT_EQ(message->draining(), vector["state"].text() == "DRAIN");
      EXPECT_EQ(to_hex(message->random), vector["random"].text());
      EXPECT_EQ(to_hex(encode_control(*message)), vector["hex"].text());
    }
  }
  EXPECT_TRUE(decode_control(unhex("0802"))->draining()) << "any state but 0 counts as DRAIN";
}

TEST(ReverseControl, KeepsEveryFieldOverARoundTrip) {
  const auto in = full_message();
  const auto out = decode_control(encode_control(in));
  ASSERT_TRUE(out);
  EXPECT_EQ(out->state, in.state);
  EXPECT_EQ(out->random, in.random);
  EXPECT_EQ(out->hello, in.hello);
  EXPECT_EQ(out->windows, in.windows);
  EXPECT_EQ(out->ping, in.ping);
  EXPECT_EQ(out->notice, in.notice);
}

TEST(ReverseControl, UsesTheTagsOfTheSpecification) {
  Control message;
  message.hello = Hello{.version = 1};
  EXPECT_TRUE(to_hex(encode_control(message)).starts_with("c23e"));
  message = {};
  message.windows = {{1, 1}};
  EXPECT_EQ(to_hex(encode_control(message)), "ca3e0408011001");
  message = {};
  message.ping = Ping{1, false};
  EXPECT_EQ(to_hex(encode_control(message)), "d23e09090100000000000000");
  message = {};
  message.notice = Notice{1, "", 0};
  EXPECT_EQ(to_hex(encode_control(message)), "da3e020801");
}

TEST(ReverseControl, SkipsFieldsItDoesNotKnow) {
  // field 5 of every wire type, then DRAIN
  const auto message =
      decode_control(unhex("2801"
                           "290102030405060708"
                           "2a03616263"
                           "2d01020304"
                           "0801"));
  ASSERT_TRUE(message);
  EXPECT_TRUE(message->draining());
}

TEST(ReverseControl, DropsPartsOfItsOwnThatDoNotParse) {
  const auto message = decode_control(unhex("c23e0208ffca3e0208ffd23e0209ffda3e020aff0801"));
  ASSERT_TRUE(message);
  EXPECT_FALSE(message->hello || message->ping || message->notice || !message->windows.empty());
  EXPECT_TRUE(message->draining());
}

TEST(ReverseControl, NamesWhatIsBroken) {
  EXPECT_EQ(decode_control(unhex("08")).error().fault, WireFault::bad_length);
  EXPECT_EQ(decode_control(unhex("9a0605aa")).error().fault, WireFault::bad_length);
  EXPECT_EQ(decode_control(unhex("0b")).error().fault, WireFault::bad_command) << "groups are gone";
  EXPECT_EQ(decode_control(unhex("0001")).error().fault, WireFault::bad_command) << "field 0";
  EXPECT_EQ(decode_control(Bytes(kMaxControl + 1)).error().fault, WireFault::bad_length);
}

TEST(ReverseControl, SurvivesACutAtEveryByte) {
  const auto bytes = encode_control(full_message());
  std::size_t refused = 0;
  for (std::size_t cut = 0; cut < bytes.size(); ++cut) refused += decode_control(ConstSpan(bytes).first(cut)) ? 0 : 1;
  EXPECT_GT(refused, bytes.size() / 2);
}

TEST(ReverseControl, KnowsFourNamesExactly) {
  for (const auto* name :
       {"reverse.internal.v2ray.com", "reverse.internal.v2fly.org", "reverse", "reverse.internal.example.com"}) {
    EXPECT_TRUE(is_control_name(name));
  }
  EXPECT_FALSE(is_control_name("Reverse"));
  EXPECT_FALSE(is_control_name("reverse.internal.v2ray.com."));
  for (const auto dialect : {Dialect::v2ray, Dialect::v2fly, Dialect::xray}) {
    EXPECT_TRUE(is_control_name(control_name(dialect)));
  }
}

}  // namespace
}  // namespace ebb::reverse
