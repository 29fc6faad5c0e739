#include "common/reverse/abort_reason.h"

#include <gtest/gtest.h>

namespace ebb::reverse {
namespace {

Bytes bytes(std::string_view hex) { return from_hex(hex).value(); }

TEST(AbortReason, IsOneByteAndText) {
  EXPECT_EQ(to_hex(encode_abort({AbortReason::refused})), "01");
  EXPECT_EQ(to_hex(encode_abort({AbortReason::unreachable, "hi"})), "036869");
  EXPECT_EQ(decode_abort(bytes("07")), (Abort{AbortReason::draining}));
  EXPECT_EQ(decode_abort(bytes("0568692e")), (Abort{AbortReason::denied, "hi."}));
}

TEST(AbortReason, IgnoresWhatItDoesNotKnow) {
  EXPECT_EQ(decode_abort({}), std::nullopt);
  EXPECT_EQ(decode_abort(bytes("00")), std::nullopt);
  EXPECT_EQ(decode_abort(bytes("08")), std::nullopt);
  EXPECT_EQ(decode_abort(bytes("ff6869")), std::nullopt);
}

TEST(AbortReason, BoundsTheTextAndMakesItPrintable) {
  Bytes said(60000, 'a');
  said[0] = 1;
  EXPECT_EQ(decode_abort(said)->text, std::string(Abort::kMaxText, 'a'));
  EXPECT_EQ(decode_abort(bytes("010a1b41ff7f"))->text, "??A??");
  EXPECT_EQ(encode_abort({AbortReason::refused, std::string(500, 'b')}).size(), Abort::kMaxBytes);
}

TEST(AbortReason, TellsNoAddressOfAnOrigin) {
  const auto told = abort_of(Error{Errc::refused, "connect 10.0.0.7:80: Connection refused", "secret"});
  EXPECT_EQ(told, (Abort{AbortReason::refused}));
  const auto unresolved = abort_of(Error{Errc::unresolved, "resolve db.internal: unknown", {}});
  EXPECT_EQ(error_of(unresolved).what, "origin could not be reached: its name does not resolve");
}

TEST(AbortReason, StaysTheSameOverSeveralNodes) {
  for (std::uint8_t code = 1; code <= 6; ++code) {
    const Abort abort{AbortReason{code}};
    EXPECT_EQ(abort_of(error_of(abort)), abort) << int{code};
    EXPECT_EQ(origin_unreached(error_of(abort)), code <= 3) << int{code};
    EXPECT_EQ(bridge_failed(error_of(abort)), code == 5 || code == 6) << int{code};
    EXPECT_FALSE(words_of(abort.reason).empty());
  }
}

}  // namespace
}  // namespace ebb::reverse
