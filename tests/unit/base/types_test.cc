// The small value types of common/base.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <unordered_set>

#include "common/base/bytes.h"
#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/base/strong_id.h"

namespace ebb {
namespace {

TEST(BigEndian, StoresWhatItLoads) {
  const Bytes in{0x01, 0x82, 0x03, 0x84, 0x05, 0x86, 0x07, 0x88};
  EXPECT_EQ(load_be16(in), 0x0182);
  EXPECT_EQ(load_be32(in), 0x01820384u);
  EXPECT_EQ(load_be64(in), 0x0182038405860788u);
  Bytes out(8);
  store_be64(out, load_be64(in));
  EXPECT_EQ(out, in);
  store_be16(out, 0xfffe);
  EXPECT_EQ(load_be16(out), 0xfffe);
  store_be32(out, 0xfffefdfc);
  EXPECT_EQ(load_be32(out), 0xfffefdfcu);
}

TEST(Hex, RoundTripsAndRefusesTheRest) {
  Bytes all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<std::uint8_t>(i));
  EXPECT_EQ(from_hex(to_hex(all)), all);
  EXPECT_EQ(to_hex(Bytes{0x00, 0xaf}), "00af");
  EXPECT_EQ(from_hex("00AF"), (Bytes{0x00, 0xaf}));
  EXPECT_EQ(from_hex(""), Bytes{});
  for (const char* bad : {"0", "0g", "g0", "0x", " 0", "00 "}) EXPECT_FALSE(from_hex(bad)) << bad;
}

TEST(Text, IsBytesAndBack) { EXPECT_EQ(as_text(as_bytes(std::string_view("a\0b", 3))), std::string_view("a\0b", 3)); }

TEST(Error, CollectsABreadcrumbOutermostFirst) {
  const Error e = Error{Errc::config, "port 70000 is above 65535", {}}.in("port").in("inbounds[0]");
  EXPECT_EQ(e.where, "inbounds[0] > port");
  EXPECT_EQ(e.what, "port 70000 is above 65535");
}

TEST(WireError, ExplainsItself) {
  EXPECT_EQ(explain({WireFault::bad_length, 7}).what, "bad length at byte 7");
  EXPECT_EQ(explain({WireFault::unauthorized}).code, Errc::protocol);
  for (const auto fault : {WireFault::bad_length, WireFault::bad_command, WireFault::bad_address, WireFault::bad_tag,
                           WireFault::bad_option, WireFault::unauthorized, WireFault::truncated})
    EXPECT_NE(name_of(fault), "unknown fault");
}

TEST(WireError, StaysSmall) { EXPECT_EQ(sizeof(WireError), 8u); }

TEST(StrongIds, DoNotConvertIntoEachOther) {
  static_assert(!std::is_convertible_v<StreamId, TunnelId> && !std::is_convertible_v<std::uint16_t, StreamId>);
  EXPECT_LT(StreamId{1}, StreamId{2});
  std::unordered_set<Tag> tags{Tag{"a"}, Tag{"b"}, Tag{"a"}};
  EXPECT_EQ(tags.size(), 2u);
}

TEST(StrongIds, UserIdsHash) {
  UserId a;
  UserId b;
  b.value[15] = 1;
  EXPECT_EQ((std::unordered_set<UserId>{a, b, a}).size(), 2u);
}

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) != -1; }
Fd open_one() { return Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

TEST(Fd, ClosesOnceAndOnlyWhatItOwns) {
  int number = -1;
  {
    Fd first = open_one();
    number = first.get();
    Fd second = std::move(first);
    EXPECT_FALSE(first);
    EXPECT_EQ(second.get(), number);
    EXPECT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST(Fd, AssignmentClosesTheOldOne) {
  Fd a = open_one();
  Fd b = open_one();
  const int old = a.get();
  const int kept = b.get();
  a = std::move(b);
  EXPECT_FALSE(is_open(old));
  EXPECT_TRUE(is_open(kept));
  Fd& same = a;
  a = std::move(same);
  EXPECT_TRUE(is_open(kept));
}

TEST(Fd, ReleaseGivesItAway) {
  Fd a = open_one();
  const int number = a.release();
  EXPECT_FALSE(a);
  a.reset();
  EXPECT_TRUE(is_open(number));
  ::close(number);
}

}  // namespace
}  // namespace ebb
