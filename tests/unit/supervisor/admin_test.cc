#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <filesystem>
#include <future>
#include <thread>

#include "supervisor/admin/client.h"
#include "supervisor/admin/protocol.h"
#include "supervisor/admin/server.h"
#include "supervisor/admin/status.h"

namespace ebb::supervisor::admin {
namespace {

using namespace std::chrono_literals;

TEST(AdminProtocol, ReadsOneCommand) {
  EXPECT_EQ(parse_request(R"({"command":"status","more":[1]})")->command, "status");
  for (const char* line :
       {"", "status", "[]", "{}", R"({"command":7})", R"({"command":"x")", "{\"command\":\"\xff\"}"}) {
    EXPECT_FALSE(parse_request(line).has_value()) << line;
  }
  EXPECT_FALSE(parse_request(std::string(kMaxRequest + 1, ' ')).has_value());
}

TEST(AdminProtocol, RepliesComeBackAsTheyWere) {
  const auto good = parse_reply(reply_ok(R"({"a":[1,"x"]})"));
  ASSERT_TRUE(good.has_value());
  EXPECT_TRUE(good->ok);
  EXPECT_EQ(good->exit, 0);
  EXPECT_EQ(good->result, R"({"a":[1,"x"]})");
  const auto bad = parse_reply(reply_error(23, "line 1\n\"2\""));
  ASSERT_TRUE(bad.has_value());
  EXPECT_FALSE(bad->ok);
  EXPECT_EQ(bad->exit, 23);
  EXPECT_EQ(bad->error, "line 1\n\"2\"");
  EXPECT_FALSE(parse_reply("HTTP/1.1 400").has_value());
}

StatusInput sample(const config::Config& config, const std::vector<Listener>& listeners) {
  StatusInput input;
  input.generation = 1;
  input.pid = 100;
  input.phase = "active";
  input.config = &config;
  input.listeners = &listeners;
  Child broker;
  broker.key = {1};
  broker.role = ipc::Role::broker;
  broker.gen = 2;
  broker.pid = 101;
  broker.state = ChildState::active;
  Child worker = broker;
  worker.key = {2};
  worker.role = ipc::Role::worker;
  worker.gen = 1;
  worker.pid = 102;
  worker.connections = 5;
  input.children = {{broker, R"({"connections":3,"portals":[{"tag":"p","domain":"d.test","dialect":"v2ray","tunnels":[
      {"id":2000007,"peer":"1.2.3.4:5","age_s":3723.5,"streams":2,"bytes_in":1536,"bytes_out":7,"violations":3,"state":"active"}]}],"bridges":[]})"},
                    {worker, std::nullopt}};
  return input;
}

TEST(Status, JoinsWhatChildrenSay) {
  config::Config config;
  config.portals.push_back({"p", "d.test"});
  const std::vector<Listener> listeners = {{{IpAddress{}, 80}, 0, "web"}};
  EXPECT_EQ(
      status_json(sample(config, listeners)),
      R"({"generation":1,"reload":{"step":"idle","last":""},"processes":[{"role":"supervisor","name":"supervisor","pid":100,"gen":1,"state":"active",)"
      R"("connections":0,"answered":true},{"role":"broker","name":"broker b2","pid":101,"gen":2,"state":"active",)"
      R"("connections":3,"answered":true},{"role":"worker","name":"worker g1/0","pid":102,"gen":1,"state":"active",)"
      R"("connections":5,"answered":false}],"listeners":[{"address":"0.0.0.0:80","tag":"web","inbound":0}],)"
      R"("portals":[{"tag":"p","domain":"d.test","dialect":"v2ray","tunnels":[{"id":2000007,"peer":"1.2.3.4:5","age_s":3723.5,)"
      R"("streams":2,"bytes_in":1536,"bytes_out":7,"violations":3,"state":"active"}]}],"bridges":[]})");
}

TEST(Status, PassesOnWhatWasCounted) {
  config::Config config;
  const std::vector<Listener> listeners;
  auto input = sample(config, listeners);
  input.children[0].json = R"({"connections":3,"counts":{"taken":4, "refused_overload":1},"portals":[],"bridges":[]})";
  input.children[1].json = R"({"connections":3,"counts":7})";  // not what was asked for
  input.replays = ipc::ReplayTable::Counts{7, 8, 9};
  const std::string json = status_json(input);
  EXPECT_TRUE(json.contains(R"("answered":true,"counts":{"taken":4,"refused_overload":1}},{"role":"worker")")) << json;
  EXPECT_TRUE(json.contains(R"("answered":true}],"replays":{"fresh":7,"refused":8,"full":9},"listeners")")) << json;
}

TEST(Status, ShowsTheFlowsOfThoseWhoHadAny) {
  config::Config config;
  const std::vector<Listener> listeners;
  auto input = sample(config, listeners);
  input.children[0].json =
      R"({"connections":3,"flows":{"live":2,"started":9,"datagrams":70,"dropped":4,"displaced":5,"idle":1},)"
      R"("udp_sockets":{"received":40,"sent":30,"dropped":3},"portals":[],"bridges":[]})";
  input.children[1].json =
      R"({"connections":3,"flows":{"live":0,"started":0,"datagrams":0,"dropped":0,"displaced":0,"idle":0}})";
  const std::string json = status_json(input);
  EXPECT_TRUE(json.contains(R"("answered":true,"flows":{"live":2,)")) << json;
  EXPECT_TRUE(json.contains(R"("udp_sockets":{"received":40,)")) << json;
  EXPECT_TRUE(status_text(json)->contains(R"(
flows of datagrams
  NAME       LIVE  STARTED  DATAGRAMS  DROPPED  DISPLACED  IDLE
  broker b2  2     9        70         7        5          1
)")) << *status_text(json);
}

TEST(Status, ListsPortalsAsConfiguredWhenTheBrokerIsSilent) {
  config::Config config;
  config.portals.push_back({"p", "d.test"});
  const std::vector<Listener> listeners;
  auto input = sample(config, listeners);
  using Said = std::optional<std::string>;
  for (const Said& said : {Said(), Said("[]"), Said("{\"portals\":")}) {  // nothing, or not what was asked for
    input.children[0].json = said;
    const std::string json = status_json(input);
    EXPECT_NE(
        json.find(R"("portals":[{"tag":"p","domain":"d.test","dialect":"unknown","answered":false,"tunnels":[]}])"),
        std::string::npos)
        << json;
    EXPECT_NE(status_text(json)->find("the broker did not answer"), std::string::npos);
  }
}

TEST(Status, ReadsAsATable) {
  config::Config config;
  const std::vector<Listener> listeners = {{{IpAddress{}, 80}, 0, "web"}, {{IpAddress{}, 81}, 1, ""}};
  EXPECT_EQ(*status_text(status_json(sample(config, listeners))), R"(generation 1

processes
  NAME         PID  STATE               CONNECTIONS
  supervisor   100  active              0
  broker b2    101  active              3
  worker g1/0  102  active (no answer)  5

listeners
  ADDRESS     INBOUND
  0.0.0.0:80  web
  0.0.0.0:81  #1

portal "p"  domain d.test  dialect v2ray
  ID       PEER       STATE   AGE   STREAMS  IN       OUT  CONGESTED  VIOLATIONS
  2000007  1.2.3.4:5  active  1h2m  2        1.5 KiB  7 B  no         3
)");
}

TEST(Status, ShowsTheBridgesOfAPoolAndWhatIsWrongWithThem) {
  const auto text = [](const std::string& bridges) {
    return *status_text(R"({"generation":1,"processes":[],"listeners":[],"bridges":[],"portals":[
        {"tag":"p","domain":"d","dialect":"v2ray","policy":"order","tunnels":[],"bridges":[)" +
                        bridges + "]}]}");
  };
  const std::string one = R"({"user":"home@x","address":"192.0.2.1","weight":1,"tunnels":2,"streams":3,)"
                          R"("visitors":30,"share_percent":75,"health":"good","failing_targets":0})";
  const std::string other =
      R"({"user":"","address":"192.0.2.2","weight":2,"tunnels":1,"streams":0,)"
      R"("visitors":10,"share_percent":25,"health":"failing","failing_targets":1,"next_trial_s":9})";
  EXPECT_NE(text(one + "," + other).find(R"(portal "p"  domain d  dialect v2ray  policy order
  BRIDGE  ADDRESS    WEIGHT  TUNNELS  STREAMS  VISITORS  SHARE  HEALTH
  home@x  192.0.2.1  1       2        3        30        75%    good
  -       192.0.2.2  2       1        0        10        25%    failing for 1 target, next trial in 9s
)"),
            std::string::npos)
      << text(one + "," + other);
  EXPECT_EQ(text(one).find("home@x"), std::string::npos) << "one bridge is no pool";
  EXPECT_NE(text(other).find("failing"), std::string::npos);
}

TEST(Status, SaysWhyThereIsNoTunnel) {
  const auto text =
      status_text(R"({"generation":1,"reload":{"step":"idle","last":""},"processes":[],"listeners":[],"portals":[],
    "bridges":[{"tag":"b","domain":"d","dialect":"unknown","last_failure":"refused\u001b[2J","tunnels":[]}]})");
  ASSERT_TRUE(text.has_value());
  EXPECT_NE(text->find("no tunnel: the portal is not reached: refused?[2J"), std::string::npos) << *text;
  EXPECT_FALSE(status_text("[]").has_value());
}

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() {
    char name[] = "/tmp/ebb-admin-XXXXXX";
    root_ = ::mkdtemp(name);
    path_ = root_ + "/ctl.sock";
  }
  ~ServerTest() override { std::filesystem::remove_all(root_); }
  /// The loop runs while `client` does, in another thread.
  void serve(Server::Handler handler, const std::function<void()>& client) {
    auto server = Server::listen(loop_, path_, std::move(handler));
    ASSERT_TRUE(server.has_value()) << server.error().what;
    std::thread thread([&] {
      client();
      loop_.post([this] { loop_.stop(); });
    });
    loop_.run();
    thread.join();
  }
  static void echo(std::string line, const std::function<void(std::string)>& reply) { reply("<" + line + ">\n"); }

  net::UvLoop loop_;
  std::string root_, path_;
};

TEST_F(ServerTest, AnswersOneLine) {
  serve(echo, [&] {
    EXPECT_EQ(ask(path_, "hello", 5s), "<hello>\n");
    EXPECT_EQ(ask(path_, "again", 5s), "<again>\n");
    struct stat info{};
    EXPECT_EQ(::stat(path_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
  });
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(ServerTest, AnswersLaterAndAtLength) {
  std::function<void(std::string)> kept;  // touched on the loop only
  const std::string large(3'000'000, 'x');
  serve(
      [&](const std::string& line, std::function<void(std::string)> reply) {
        if (line == "later") {
          kept = std::move(reply);
        } else if (kept) {
          kept(large);
          reply("done\n");
        } else {
          reply("too early\n");
        }
      },
      [&] {
        auto first = std::async(std::launch::async, [&] { return ask(path_, "later", 10s); });
        while (ask(path_, "now", 10s) == "too early\n") {
        }
        EXPECT_EQ(first.get()->size(), large.size());
      });
}

TEST_F(ServerTest, RefusesALineThatIsTooLong) {
  serve(echo, [&] {
    const auto reply = ask(path_, std::string(kMaxRequest + 10, 'x'), 5s);
    EXPECT_TRUE(!reply || parse_reply(*reply)->exit == 2);  // or the rest of the line met a closed socket
  });
}

TEST_F(ServerTest, OutlivesClientsThatLeaveAndServesMoreThanItsPlaces) {
  serve(echo, [&] {
    std::vector<Fd> idle;
    for (std::size_t i = 0; i < Server::kMaxConversations; ++i) {
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      path_.copy(address.sun_path, sizeof address.sun_path - 1);
      idle.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      EXPECT_EQ(::connect(idle.back().get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    }
    auto waiting = std::async(std::launch::async, [&] { return ask(path_, "patient", 10s); });
    EXPECT_EQ(waiting.wait_for(50ms), std::future_status::timeout);  // every place is taken
    idle.clear();
    EXPECT_EQ(waiting.get(), "<patient>\n");
  });
}

TEST_F(ServerTest, ReplacesADeadSocketButNoOtherFile) {
  {
    const Fd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
  }
  serve(echo, [] {});
  std::filesystem::create_directory(path_);
  const auto server = Server::listen(loop_, path_, echo);
  ASSERT_FALSE(server.has_value());
  EXPECT_NE(server.error().what.find("File exists"), std::string::npos);
  EXPECT_FALSE(Server::listen(loop_, root_ + "/" + std::string(200, 'x'), echo).has_value());
}

TEST(Client, SaysThatNobodyIsThere) {
  const auto answer = ask("/nonexistent/ctl.sock", "x", 1s);
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code, Errc::refused);
  EXPECT_EQ(answer.error().what, "no ebbgate is running there");
}

}  // namespace
}  // namespace ebb::supervisor::admin
