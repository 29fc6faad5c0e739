#include "common/net/conversation.h"

#include <gtest/gtest.h>

#include "tests/support/manual_loop.h"
#include "tests/support/memory_stream.h"

namespace ebb::net {
namespace {

using namespace std::chrono_literals;
using test::ManualLoop;
using test::MemoryFaults;
using test::MemoryStream;

Decoded<Step<std::string>> decode_line(ConstSpan in) {
  const std::string_view text = as_text(in);
  if (text.starts_with('!')) return std::unexpected(WireError{WireFault::bad_command, 0});
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos) return Step<std::string>{};
  return Step<std::string>{end + 1, std::string(text.substr(0, end))};
}

/// Greets back, then reads the line that counts.
Task<Result<std::string>> handshake(Conversation& peer) {
  const Deadline deadline(peer, 4s, "handshake");
  auto hello = co_await read_message<std::string>(peer, decode_line);
  if (!hello) co_return std::unexpected(std::move(hello.error()).in("greeting"));
  const std::string answer = "hi " + *hello + "\n";
  const ConstSpan bytes = as_bytes(answer);
  auto written = co_await peer.write(bytes);
  if (!written) co_return std::unexpected(std::move(written.error()).in("answer"));
  auto request = co_await read_message<std::string>(peer, decode_line);
  if (!request) co_return std::unexpected(std::move(request.error()).in("request"));
  co_return *request;
}

struct Talk {
  explicit Talk(MemoryFaults faults = {}, MemoryFaults far_faults = {}, std::size_t max_input = 64) {
    auto [near, other] = MemoryStream::pair(loop, faults, far_faults);
    far = std::move(other);
    conversation = std::make_unique<Conversation>(std::move(near), max_input);
    task.emplace(handshake(*conversation));
    task->start();
  }
  ManualLoop loop;
  std::unique_ptr<MemoryStream> far;
  std::unique_ptr<Conversation> conversation;
  std::optional<Task<Result<std::string>>> task;
};

TEST(Conversation, RunsAHandshakeAndHandsTheRestOn) {
  Talk talk;
  talk.far->put("me\nopen\nbody");
  talk.loop.settle();
  ASSERT_TRUE(talk.task->done());
  EXPECT_EQ(talk.task->take(), "open");
  EXPECT_EQ(as_text(talk.far->take()), "hi me\n");
  auto rest = talk.conversation->release();
  EXPECT_EQ(as_text(rest.unread), "body");
  EXPECT_NE(rest.stream, nullptr);
}

TEST(Conversation, WorksWithEveryCutAndWithBlockingInBetween) {
  const std::string input = "somebody\nrequest\n";
  for (std::size_t cut = 0; cut <= input.size(); ++cut) {
    MemoryFaults faults;
    faults.max_read = 1 + cut % 3;
    faults.max_write = 2;
    faults.capacity = 3;
    faults.block_every = 2 + static_cast<unsigned>(cut % 3);
    Talk talk(faults);
    talk.far->put(std::string_view(input).substr(0, cut));
    std::string answer;
    const auto pump = [&] {
      for (int i = 0; i < 10; ++i) {
        talk.loop.settle();
        answer += as_text(talk.far->take());
      }
    };
    pump();
    talk.far->put(std::string_view(input).substr(cut));
    pump();
    ASSERT_TRUE(talk.task->done()) << cut;
    EXPECT_EQ(talk.task->take(), "request");
    EXPECT_EQ(answer, "hi somebody\n");
  }
}

TEST(Conversation, ErrorsCarryWhatWasGoingOn) {
  {
    Talk talk;
    talk.far->put("me\n");
    talk.far->shutdown_write();
    talk.loop.settle();
    const auto result = talk.task->take();
    EXPECT_EQ(result.error().code, Errc::closed);
    EXPECT_EQ(result.error().where, "request");
  }
  {
    Talk talk;
    talk.far->put("!\n");
    talk.loop.settle();
    EXPECT_EQ(talk.task->take().error().what, "bad command at byte 0");
  }
  {
    Talk talk;
    talk.loop.settle();
    talk.far->reset();
    talk.loop.settle();
    EXPECT_EQ(talk.task->take().error().code, Errc::closed);
  }
}

TEST(Conversation, TheDeadlineEndsIt) {
  Talk talk;
  talk.loop.advance(3990ms);
  EXPECT_FALSE(talk.task->done());
  talk.loop.advance(20ms);
  ASSERT_TRUE(talk.task->done());
  const auto result = talk.task->take();
  EXPECT_EQ(result.error().code, Errc::timeout);
  EXPECT_EQ(result.error().what, "handshake took longer than 4000 ms");
}

TEST(Conversation, TheDeadlineAlsoEndsABlockedWrite) {
  MemoryFaults tiny;
  tiny.capacity = 2;
  Talk talk(tiny);
  talk.far->put("me\n");
  talk.loop.advance(5s);
  ASSERT_TRUE(talk.task->done());
  EXPECT_EQ(talk.task->take().error().where, "answer");
}

TEST(Conversation, InputIsBounded) {
  Talk talk({}, {}, 16);
  talk.far->put(std::string(100, 'x'));
  talk.loop.settle();
  ASSERT_TRUE(talk.task->done());
  EXPECT_EQ(talk.task->take().error().code, Errc::overload);
  EXPECT_EQ(talk.conversation->input().size(), 16u);
}

TEST(Conversation, DestroyingTheTaskCancels) {
  Talk talk;
  talk.far->put("me\nop");
  talk.loop.settle();
  EXPECT_FALSE(talk.task->done());
  talk.task.reset();
  talk.far->put("en\n");
  talk.loop.advance(10s);
  auto rest = talk.conversation->release();
  EXPECT_EQ(as_text(rest.unread), "op");
}

TEST(Conversation, AbortEndsLaterCallsToo) {
  Talk talk;
  talk.conversation->abort(Error{Errc::overload, "too many handshakes", {}});
  ASSERT_TRUE(talk.task->done());
  EXPECT_EQ(talk.task->take().error().what, "too many handshakes");
  talk.task.emplace(handshake(*talk.conversation));
  talk.far->put("me\n");
  talk.task->start();
  ASSERT_TRUE(talk.task->done());
  EXPECT_EQ(talk.task->take().error().what, "too many handshakes");
}

Task<int> ready_child() { co_return 1; }
Task<int> sum_of_children(int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) sum += co_await ready_child();
  co_return sum;
}

TEST(Task, ManyReadyChildrenDoNotGrowTheStack) {
  auto task = sum_of_children(1'000'000);
  task.start();
  ASSERT_TRUE(task.done());
  EXPECT_EQ(task.take(), 1'000'000);
}

}  // namespace
}  // namespace ebb::net
