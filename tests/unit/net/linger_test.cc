#include "common/net/linger.h"

#include <gtest/gtest.h>

#include <array>

#include "tests/support/manual_loop.h"
#include "tests/support/memory_stream.h"

namespace ebb::net {
namespace {

using namespace std::chrono_literals;
using test::ManualLoop;
using test::MemoryStream;

TEST(Linger, DiscardsUntilThePeerEnds) {
  ManualLoop loop;
  auto [near, far] = MemoryStream::pair(loop);
  near->put("answer");
  linger_close(std::move(near));
  EXPECT_TRUE(far->ended());
  far->put("still talking");
  loop.advance(100ms);
  EXPECT_EQ(loop.lingering().size(), 1u);
  EXPECT_EQ(as_text(far->take()), "answer");
  far->shutdown_write();
  loop.settle();
  EXPECT_EQ(loop.lingering().size(), 0u);
  EXPECT_FALSE(far->was_reset());
}

TEST(Linger, ClosesAfterTwoSecondsWhateverThePeerDoes) {
  ManualLoop loop;
  auto [near, far] = MemoryStream::pair(loop);
  linger_close(std::move(near));
  for (int i = 0; i < 19; ++i) {
    far->put("more");
    loop.advance(100ms);
  }
  EXPECT_EQ(loop.lingering().size(), 1u);
  loop.advance(110ms);
  EXPECT_EQ(loop.lingering().size(), 0u);
}

TEST(Linger, GivesAPeerTimeWhoStillTakesWhatTheKernelHas) {
  ManualLoop loop;
  auto [near, far] = MemoryStream::pair(loop);
  near->put(std::string(1000, 'x'));
  linger_close(std::move(near));
  std::array<std::uint8_t, 100> some;
  for (int i = 0; i < 10; ++i) {
    loop.advance(1900ms);
    far->put("an answer");
    EXPECT_EQ(far->read(some).bytes, 100u);
    EXPECT_EQ(loop.lingering().size(), 1u) << i;
  }
  loop.advance(2100ms);  // all is there: the ordinary two seconds have passed
  EXPECT_EQ(loop.lingering().size(), 0u);
  EXPECT_FALSE(far->was_reset());
}

TEST(Linger, HasALimitForSlowPeersToo) {
  ManualLoop loop;
  auto [near, far] = MemoryStream::pair(loop);
  near->put(std::string(10'000, 'x'));
  linger_close(std::move(near));
  std::array<std::uint8_t, 1> one;
  const auto start = loop.now();
  while (loop.lingering().size() == 1 && loop.now() - start < 1h) {
    far->read(one);
    loop.advance(1s);
  }
  EXPECT_GE(loop.now() - start, Lingering::kLongest);
  EXPECT_LE(loop.now() - start, Lingering::kLongest + 3s);
}

TEST(Linger, IsBounded) {
  ManualLoop loop;
  std::vector<std::unique_ptr<MemoryStream>> far;
  for (std::size_t i = 0; i < Lingering::kMax + 10; ++i) {
    auto pair = MemoryStream::pair(loop);
    linger_close(std::move(pair.first));
    far.push_back(std::move(pair.second));
  }
  EXPECT_EQ(loop.lingering().size(), Lingering::kMax);
  EXPECT_TRUE(far.back()->ended());
}

}  // namespace
}  // namespace ebb::net
