#include "common/net/linger.h"

#include <gtest/gtest.h>

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
