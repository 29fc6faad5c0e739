#include "common/base/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <thread>

#include "tests/support/vectors.h"

namespace ebb {
namespace {

using log::Format;
using log::Level;
using log::Logger;

/// The clock of spec/config.md's examples, in a zone without daylight saving.
std::chrono::system_clock::time_point fixed_time() {
  ::setenv("TZ", "XYZ-02:00", 1);  // two hours east of UTC
  ::tzset();
  std::tm local{.tm_sec = 42, .tm_min = 9, .tm_hour = 23, .tm_mday = 20, .tm_mon = 10, .tm_year = 126};
  return std::chrono::system_clock::from_time_t(std::mktime(&local)) + std::chrono::milliseconds(987);
}

/// A logger whose lines end up in memory.
class Sheet {
 public:
  explicit Sheet(Format format = Format::v2ray, Level level = Level::debug)
      : logger_({.level = level,
                 .format = format,
                 .error = writer(),
                 .access = Fd(::dup(pipe_[1].get())),
                 .clock = [now = fixed_time()] { return now; }}) {}

  Logger& logger() { return logger_; }
  /// What was written since the last call.
  std::string text() {
    std::string out(1 << 16, '\0');
    const ssize_t got = ::read(pipe_[0].get(), out.data(), out.size());
    out.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return out;
  }
  template <class... T>
  std::string event(Level level, std::string_view component, std::string_view message, const Field<T>&... fields) {
    using log::to_value;
    const log::RenderedField rendered[] = {{fields.key, to_value(fields.value)}..., {}};
    logger_.event(level, component, message, std::span(rendered).first(sizeof...(fields)));
    return text();
  }
  std::string access(const log::AccessLine& line) {
    logger_.access(line);
    return text();
  }

 private:
  Fd writer() {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    EXPECT_EQ(::fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);  // the reading end only: the logger must not need it
    pipe_[0] = Fd(ends[0]);
    pipe_[1] = Fd(::dup(ends[1]));
    return Fd(ends[1]);
  }
  Fd pipe_[2];
  Logger logger_;
};

const Endpoint kPeer{*IpAddress::parse("127.0.0.1"), 56880};
const Target kTarget{Network::tcp, parse_host("203.0.113.9"), 80};
const Target kNamed{Network::tcp, parse_host("x.test"), 80};
const std::string kStamp = "2026/11/20 23:09:42 ";

TEST(AccessLog, KeepsV2RaysLines) {
  Sheet sheet;
  EXPECT_EQ(sheet.access({.source = &kPeer, .target = &kTarget, .outbound_tag = "portal"}),
            "2026/11/20 23:09:42 127.0.0.1:56880 accepted tcp:203.0.113.9:80 [portal]\n");
  EXPECT_EQ(sheet.access({.source = &kPeer,
                          .source_network = Network::tcp,
                          .target = &kNamed,
                          .outbound_tag = "a",
                          .user = "nas@home"}),
            "2026/11/20 23:09:42 tcp:127.0.0.1:56880 accepted tcp:x.test:80 [a] email: nas@home\n");
  EXPECT_EQ(sheet.access({.source = &kPeer,
                          .source_network = Network::udp,
                          .accepted = false,
                          .reason = "proxy/socks: invalid username or password"}),
            "2026/11/20 23:09:42 udp:127.0.0.1:56880 rejected  proxy/socks: invalid username or password\n");
  EXPECT_EQ(sheet.access({.target = &kTarget, .outbound_tag = "out"}),
            "2026/11/20 23:09:42  accepted tcp:203.0.113.9:80 [out]\n");
}

TEST(AccessLog, LeavesOutWhatIsEmptyWithoutATrailingBlank) {
  Sheet sheet;
  EXPECT_EQ(sheet.access({.source = &kPeer, .target = &kNamed}), kStamp + "127.0.0.1:56880 accepted tcp:x.test:80\n");
  EXPECT_EQ(sheet.access({.source = &kPeer, .accepted = false}), kStamp + "127.0.0.1:56880 rejected\n");
  EXPECT_EQ(sheet.access({.source = &kPeer, .target_text = "http://x.test/"}),
            kStamp + "127.0.0.1:56880 accepted http://x.test/\n");
}

TEST(AccessLog, APeerCannotForgeALine) {
  Sheet sheet;
  const Target hostile{Network::tcp, Host{std::string("x\n2026/11/20 y accepted\x1b[2J\0 z", 30)}, 80};
  EXPECT_EQ(
      sheet.access({.source = &kPeer, .target = &hostile, .user = "a\r\nb"}),
      kStamp +
          "127.0.0.1:56880 accepted tcp:x\\n2026/11/20\\x20y\\x20accepted\\x1b[2J\\x00\\x20z:80 email: a\\x0d\\nb\n");
}

TEST(AccessLog, WritesObjects) {
  Sheet sheet(Format::json);
  EXPECT_EQ(sheet.access({.source = &kPeer, .target = &kNamed, .outbound_tag = "a", .user = "nas@home"}),
            "{\"time\":\"2026-11-20T23:09:42+02:00\",\"log\":\"access\",\"status\":\"accepted\",\"source\":\"127.0.0.1:"
            "56880\","
            "\"target\":\"tcp:x.test:80\",\"outbound\":\"a\",\"user\":\"nas@home\"}\n");
}

TEST(ErrorLog, KeepsV2RaysLine) {
  Sheet sheet;
  const std::uint64_t none = 0, some = 3;
  EXPECT_EQ(sheet.event(Level::info, "portal", "tunnel closed", kv("tag", "p"), kv("others", none)),
            "2026/11/20 23:09:42 [Info] portal: tunnel closed tag=p\n");
  EXPECT_EQ(sheet.event(Level::info, "portal", "tunnel closed", kv("tag", "p"), kv("others", some)),
            "2026/11/20 23:09:42 [Info] portal: tunnel closed tag=p others=3\n");
  EXPECT_EQ(sheet.event(Level::warning, "component", "message > cause > deeper cause", kv("conn", 1294272712u)),
            "2026/11/20 23:09:42 [Warning] [1294272712] component: message > cause > deeper cause\n");
  EXPECT_EQ(sheet.event(Level::info, "reverse", "tunnel lost", kv("tag", Tag{"portal"}), kv("peer", kPeer),
                        kv("reason", "stalled")),
            kStamp + "[Info] reverse: tunnel lost tag=portal peer=127.0.0.1:56880 reason=stalled\n");
  EXPECT_EQ(sheet.event(Level::debug, "a", "b"), kStamp + "[Debug] a: b\n");
  EXPECT_EQ(sheet.event(Level::error, "a", "b"), kStamp + "[Error] a: b\n");
}

TEST(ErrorLog, QuotesWhatNeedsIt) {
  Sheet sheet;
  const auto shown = [&](const auto& value) {
    std::string line = sheet.event(Level::info, "c", "m", kv("k", value));
    return line.substr(kStamp.size() + std::string_view("[Info] c: m k=").size());
  };
  EXPECT_EQ(shown("plain-1.2:3/4[5]"), "plain-1.2:3/4[5]\n");
  EXPECT_EQ(shown(quote("plain")), "\"plain\"\n");
  EXPECT_EQ(shown(""), "\"\"\n");
  EXPECT_EQ(shown("two words"), "\"two words\"\n");
  EXPECT_EQ(shown("a=b"), "\"a=b\"\n");
  EXPECT_EQ(shown("say \"hi\" \\ \n\x7f"), "\"say \\\"hi\\\" \\\\ \\n\\x7f\"\n");
  EXPECT_EQ(shown("h\xc3\xa9 \xed\x95\x9c"), "\"h\xc3\xa9 \xed\x95\x9c\"\n");
  EXPECT_EQ(shown("\xff\xc3 \xc2\x9b \xc0\x80 \xed\xa0\x80 \xf4\x90\x80\x80 \xf0\x9f\x98\x80"),
            "\"\\xff\\xc3 \\xc2\\x9b \\xc0\\x80 \\xed\\xa0\\x80 \\xf4\\x90\\x80\\x80 \xf0\x9f\x98\x80\"\n");
  EXPECT_EQ(shown(true), "true\n");
  EXPECT_EQ(shown(-7), "-7\n");
  EXPECT_EQ(shown(std::uint64_t{18446744073709551615u}), "18446744073709551615\n");
  EXPECT_EQ(shown(1.5), "1.5\n");
  EXPECT_EQ(shown(StreamId{7}), "7\n");
  EXPECT_EQ(shown(*IpAddress::parse("::1")), "::1\n");
  EXPECT_EQ(shown(Error{Errc::closed, "end of stream", "tunnel > request"}), "\"tunnel > request: end of stream\"\n");
}

TEST(ErrorLog, WritesObjectsThatParse) {
  Sheet sheet(Format::json);
  EXPECT_EQ(sheet.event(Level::warning, "reverse", "tunnel \"lost\"", kv("conn", 7), kv("rtt_ms", 1.5), kv("tag", "p"),
                        kv("ok", false)),
            "{\"time\":\"2026-11-20T23:09:42+02:00\",\"log\":\"error\",\"level\":\"warning\",\"component\":\"reverse\","
            "\"message\":\"tunnel \\\"lost\\\"\",\"conn\":7,\"rtt_ms\":1.5,\"tag\":\"p\",\"ok\":false}\n");
  std::string every_byte;
  for (int c = 0; c < 256; ++c) every_byte += static_cast<char>(c);
  const auto object =
      test::parse_json(sheet.event(Level::info, "c", every_byte, kv("k", quote(every_byte)), kv("nan", 0.0 / 0.0)));
  EXPECT_EQ(object["k"].text(), object["message"].text());
  EXPECT_EQ(object["k"].text().substr(0, 128), every_byte.substr(0, 128));
  EXPECT_FALSE(object.has("nan"));  // null: JSON has no such number
}

TEST(Log, LinesStayWithinFourKibibytes) {
  const std::string nine_kilobytes(9000, '\x01');
  for (const Format format : {Format::v2ray, Format::json}) {
    Sheet sheet(format);
    for (std::size_t bytes = 800; bytes < 1100; ++bytes) {  // x4 and x6 when escaped: around the limit
      const std::string value = nine_kilobytes.substr(0, bytes);
      const std::string line = sheet.event(Level::info, "c", "m", kv("a", value), kv("b", "kept"));
      ASSERT_LE(line.size(), log::kMaxLineBytes);
      ASSERT_TRUE(line.ends_with(format == Format::json ? "}\n" : "\n"));
      if (format == Format::json) test::parse_json(line);  // throws if it does not parse
      const bool first = line.contains("a=") || line.contains("\"a\":");
      const bool second = line.contains("kept");
      ASSERT_TRUE(first || second) << bytes;
      ASSERT_EQ(line.contains("truncated"), !first || !second) << bytes;
    }
    const std::string line = sheet.event(Level::info, "c", nine_kilobytes, kv("kept", "yes"));
    EXPECT_LE(line.size(), log::kMaxLineBytes);
    EXPECT_NE(line.find("truncated"), line.npos);
    EXPECT_NE(line.find("kept"), line.npos);
    EXPECT_LE(
        sheet
            .access(
                {.accepted = false, .target_text = nine_kilobytes, .reason = nine_kilobytes, .user = nine_kilobytes})
            .size(),
        log::kMaxLineBytes);
  }
}

TEST(Log, FiltersByLevel) {
  Sheet sheet(Format::v2ray, Level::warning);
  EXPECT_EQ(sheet.event(Level::info, "c", "m"), "");
  EXPECT_NE(sheet.event(Level::warning, "c", "m"), "");
  EXPECT_TRUE(sheet.logger().access_enabled());
  sheet.logger().set_level(Level::none);  // turns both off
  EXPECT_EQ(sheet.event(Level::error, "c", "m"), "");
  EXPECT_EQ(sheet.event(Level::none, "c", "m"), "");
  EXPECT_EQ(sheet.access({.target = &kTarget}), "");
  Logger off({});
  EXPECT_FALSE(off.enabled(Level::error));
  EXPECT_FALSE(off.access_enabled());
}

TEST(Log, ChangesItsFormatBetweenTwoLines) {
  Sheet sheet(Format::v2ray, Level::info);
  EXPECT_FALSE(sheet.event(Level::info, "c", "m").starts_with("{"));
  sheet.logger().set_format(Format::json);
  const std::string line = sheet.event(Level::info, "c", "m");
  EXPECT_TRUE(line.starts_with("{\"time\":") && line.ends_with("}\n")) << line;
  EXPECT_TRUE(sheet.access({.target = &kTarget}).starts_with("{"));
  sheet.logger().set_format(Format::v2ray);
  EXPECT_FALSE(sheet.event(Level::info, "c", "m").starts_with("{"));
}

TEST(Log, DropsAndCountsWhatAFullPipeDoesNotTake) {
  Sheet sheet;
  const std::string field(3000, 'x');
  int written = 0;
  while (sheet.logger().dropped_lines() == 0 && written < 1000) {
    const log::RenderedField rendered[] = {{"k", std::string_view(field)}};
    sheet.logger().event(Level::info, "c", "m", rendered);
    ++written;
  }
  EXPECT_EQ(sheet.logger().dropped_lines(), 1u);  // and we are still here: it did not wait
  EXPECT_LT(written, 1000);
  while (!sheet.text().empty()) continue;
  EXPECT_EQ(sheet.event(Level::info, "c", "again"), kStamp + "[Info] c: again\n");
}

TEST(Log, CountsLinesLostToAFullDisk) {
  Fd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(full);
  Logger logger({.error = std::move(full)});
  logger.event(Level::error, "c", "m", {});
  EXPECT_EQ(logger.dropped_lines(), 1u);
}

/// A folder that goes away.
class Folder {
 public:
  Folder() { EXPECT_NE(::mkdtemp(path_.data()), nullptr); }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_ = ::testing::TempDir() + "ebb-log-XXXXXX";
};

std::string content(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string out(1 << 20, '\0');
  const ssize_t got = ::read(fd.get(), out.data(), out.size());
  out.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return out;
}

TEST(Log, OpensFilesForAppendPrivatelyAndNamesTheFailure) {
  const Folder folder;
  const std::string path = folder / "error.log";
  auto fd = log::open_log(path);
  ASSERT_TRUE(fd);
  struct stat info{};
  ASSERT_EQ(::fstat(fd->get(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_TRUE(::fcntl(fd->get(), F_GETFL) & O_APPEND);
  EXPECT_TRUE(::fcntl(fd->get(), F_GETFD) & FD_CLOEXEC);
  EXPECT_EQ(log::open_log("/no/such/file").error().what, "open /no/such/file: No such file or directory");
  auto standard_output = log::open_log("");
  ASSERT_TRUE(standard_output);
  EXPECT_GT(standard_output->get(), 2);
}

TEST(Log, SwapsFilesUnderTheSameNumber) {
  const Folder folder;
  auto first = log::open_log(folder / "a");
  ASSERT_TRUE(first);
  const int number = first->get();
  Logger logger({.error = std::move(*first), .clock = [now = fixed_time()] { return now; }});
  logger.event(Level::error, "c", "one", {});
  auto second = log::open_log(folder / "b");
  ASSERT_TRUE(second);
  const int spare = second->get();
  logger.swap(log::Stream::error, std::move(*second));
  logger.event(Level::error, "c", "two", {});
  EXPECT_EQ(content(folder / "a"), kStamp + "[Error] c: one\n");
  EXPECT_EQ(content(folder / "b"), kStamp + "[Error] c: two\n");
  EXPECT_NE(::fcntl(number, F_GETFD), -1);
  EXPECT_EQ(::fcntl(spare, F_GETFD), -1);
  logger.swap(log::Stream::error, Fd());
  EXPECT_FALSE(logger.enabled(Level::error));
  EXPECT_FALSE(logger.access_enabled());
  logger.swap(log::Stream::access, log::open_log(folder / "c").value());  // from off to on
  EXPECT_TRUE(logger.access_enabled());
}

TEST(Log, LinesOfThreadsDoNotMix) {
  const Folder folder;
  Logger logger({.level = Level::info, .error = log::open_log(folder / "a").value(), .clock = [now = fixed_time()] {
                   return now;
                 }});
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&logger, t] {
        const log::RenderedField field[] = {{"t", std::int64_t{t}}};
        for (int i = 0; i < 200; ++i) logger.event(Level::info, "c", "m", field);
      });
  }
  const std::string text = content(folder / "a");
  const std::size_t line = kStamp.size() + std::string_view("[Info] c: m t=0\n").size();
  ASSERT_EQ(text.size(), 800 * line);
  for (std::size_t at = 0; at < text.size(); at += line) EXPECT_EQ(text.substr(at, kStamp.size()), kStamp);
}

TEST(Log, TheProcessLogIsSilentUntilItIsMade) {
  log_event(Level::error, "c", "nobody hears this");
  log_access({.target = &kTarget});
  ASSERT_EQ(log::current(), nullptr);
  const Folder folder;
  log::init({.level = Level::info, .error = log::open_log(folder / "a").value(), .clock = [now = fixed_time()] {
               return now;
             }});
  log_event(Level::debug, "c", "off");
  log_event(Level::info, "reverse", "tunnel opened", kv("conn", std::uint32_t{9}), kv("rtt_ms", 12));
  EXPECT_EQ(content(folder / "a"), kStamp + "[Info] [9] reverse: tunnel opened rtt_ms=12\n");
  EXPECT_TRUE(log_enabled(Level::info));
}

template <class T>
concept Loggable = requires(const T& value) { log::to_value(value); };
static_assert(Loggable<TunnelId> && !Loggable<UserId>, "a user id is a key");

}  // namespace
}  // namespace ebb
