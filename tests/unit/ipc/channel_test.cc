#include <gtest/gtest.h>

#include "ipc/channel.h"

namespace ebb::ipc {
namespace {

TEST(Channel, CarriesHelloBothWays) {
  auto ends = pair();
  ASSERT_TRUE(ends);
  Channel parent(std::move(ends->first), Link::ctl, Role::supervisor, Role::worker);
  Channel child(std::move(ends->second), Link::ctl, Role::worker, Role::supervisor);
  Hello hello;
  hello.role = Role::supervisor;
  hello.gen = 7;
  EXPECT_EQ(parent.send_body(Type::hello, hello), Sent::sent);
  int seen = 0;
  EXPECT_EQ(child.on_readable([&](Message& m) {
    ++seen;
    EXPECT_EQ(m.type(), Type::hello);
    EXPECT_EQ(m.as<Hello>().gen, 7u);
  }),
            ReadEnd::drained);
  EXPECT_EQ(seen, 1);
}

}  // namespace
}  // namespace ebb::ipc
