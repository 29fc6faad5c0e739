// The test program is its own child, as ebbgate is: with --role it plays a checker (the real one) or a worker or broker
// that does nothing but answer.
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <vector>

#include "common/base/json_writer.h"
#include "ipc/child.h"
#include "supervisor/process/checker.h"
#include "supervisor/process/spawn.h"

namespace ebb::supervisor {
namespace {

/// Does what its snapshot says: "die" ends before READY, "mute" ends when asked, one with "fragile" in it when a worker
/// is started; the broker has nothing against a change unless "stubborn" is in it. Anything else serves.
class PlayedChild final : public ipc::ChildHandler {
 public:
  int play(ipc::Role role) {
    ipc::ChildControl control(Fd(kCtlFd), role, *this);
    control_ = &control;
    worker_ = role == ipc::Role::worker;
    while (!leave_) {
      pollfd waiting[] = {{control.fd(), POLLIN, 0}, {control.signal_fd(), POLLIN, 0}};
      ::poll(waiting, 2, 10'000);
      control.on_readable();
      if (waiting[1].revents != 0) control.on_signal();
    }
    control.drained(0, 0);
    return status_;
  }

  void on_log(ipc::LogKind, Fd) override { ++logs_; }
  Result<> on_shm(ipc::ShmKind, Fd, std::uint64_t bytes) override {
    shm_bytes_ = bytes;
    return {};
  }
  Result<> on_config(std::uint64_t, std::string_view snapshot) override {
    snapshot_ = snapshot;
    if (snapshot_ == "die") ::_exit(3);
    control_->ready();
    return {};
  }
  void on_slot(const ipc::SlotGrant&, Fd socket) override { slots_.push_back(std::move(socket)); }
  void on_slot_revoked(std::uint32_t) override { ++revoked_; }
  void on_link(const ipc::LinkAdd&, Fd end) override { links_.push_back(std::move(end)); }
  Result<ipc::UpdateVerdict> on_update_prepare(std::uint64_t, std::string_view snapshot) override {
    if (snapshot.find("stubborn") == std::string_view::npos) return ipc::UpdateVerdict{};
    return std::unexpected(Error{Errc::config, "no", {}});
  }
  void on_start() override {
    if (worker_ && snapshot_.find("fragile") != std::string::npos) ::_exit(5);
    started_ = true;
  }
  void on_pause() override {}
  void on_drain(const ipc::DrainOrder&) override { leave_ = true; }
  std::string on_query(std::string_view request) override {
    if (snapshot_ == "mute") ::_exit(4);
    JsonWriter out;
    out.object().key("connections").number(7).key("request").text(request).key("started").boolean(started_);
    out.key("slots").number(static_cast<std::int64_t>(slots_.size()));
    out.key("links").number(static_cast<std::int64_t>(links_.size()));
    out.key("logs").number(logs_).key("shm").boolean(shm_bytes_ > 0).end();
    return out.str();
  }
  ipc::Vitals on_ping() override { return {}; }
  void on_broken(const Error&) override {
    leave_ = true;
    status_ = 1;
  }

 private:
  ipc::ChildControl* control_ = nullptr;
  std::string snapshot_;
  std::vector<Fd> slots_, links_;
  std::uint64_t shm_bytes_ = 0;
  int logs_ = 0;
  int revoked_ = 0;
  bool started_ = false;
  bool leave_ = false;
  bool worker_ = false;
  int status_ = 0;
};

}  // namespace
}  // namespace ebb::supervisor

int main(int argc, char** argv) {
  using namespace ebb;
  const std::string_view role = argc > 1 ? argv[1] : "";
  if (role == "--role=checker") {
    const std::vector<std::string> arguments(argv + 2, argv + argc);
    if (!arguments.empty() && arguments.back() == "crash") ::abort();
    if (!arguments.empty() && arguments.back() == "hang") ::pause();
    return supervisor::run_checker(Fd(supervisor::kCtlFd), Fd(supervisor::kCtlFd + 1), arguments);
  }
  if (role == "--role=worker") return supervisor::PlayedChild().play(ipc::Role::worker);
  if (role == "--role=broker") return supervisor::PlayedChild().play(ipc::Role::broker);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
