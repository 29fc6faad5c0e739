#include "supervisor/process/notify.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "common/base/fd.h"

namespace ebb::supervisor {
namespace {

/// An abstract socket that plays the service manager.
class Manager {
 public:
  explicit Manager(const std::string& name) : fd_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path + 1, name.data(), name.size());
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    ::setenv("NOTIFY_SOCKET", ("@" + name).c_str(), 1);
  }
  std::string heard() {
    char text[512];
    const auto n = ::recv(fd_.get(), text, sizeof text, 0);
    return n < 0 ? "" : std::string(text, static_cast<std::size_t>(n));
  }

 private:
  Fd fd_;
};

TEST(ServiceManager, HearsOneDatagramEach) {
  Manager manager("ebbgate-test-" + std::to_string(::getpid()));
  const auto told = ServiceManager::from_environment();
  EXPECT_EQ(::getenv("NOTIFY_SOCKET"), nullptr);  // not for children
  told.tell("READY=1\nSTATUS=generation 1");
  EXPECT_EQ(manager.heard(), "READY=1\nSTATUS=generation 1");
  told.tell_reloading();
  const std::string words = manager.heard();
  EXPECT_TRUE(words.starts_with("RELOADING=1\nMONOTONIC_USEC=")) << words;
  EXPECT_GT(std::stoull(words.substr(words.rfind('=') + 1)), 0u);
  EXPECT_FALSE(told.watchdog().has_value());
}

TEST(ServiceManager, WatchdogIsForThisProcessOnly) {
  const Manager manager("ebbgate-test-w-" + std::to_string(::getpid()));
  ::setenv("WATCHDOG_USEC", "3000000", 1);
  ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
  EXPECT_EQ(ServiceManager::from_environment().watchdog(), Duration(std::chrono::seconds(3)));
  ::setenv("NOTIFY_SOCKET", "@somewhere", 1);
  ::setenv("WATCHDOG_USEC", "3000000", 1);
  ::setenv("WATCHDOG_PID", "1", 1);
  EXPECT_FALSE(ServiceManager::from_environment().watchdog().has_value());
}

TEST(ServiceManager, WithoutOneNothingIsSaid) {
  ::unsetenv("NOTIFY_SOCKET");
  ServiceManager::from_environment().tell("READY=1");
  ::setenv("NOTIFY_SOCKET", std::string(200, 'x').c_str(), 1);
  ServiceManager::from_environment().tell("READY=1");
}

}  // namespace
}  // namespace ebb::supervisor
