#include "supervisor/process/spawn.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <array>

#include "common/base/fd.h"
#include "supervisor/process/environment.h"

namespace ebb::supervisor {
namespace {

/// Runs bash -c script (dash clears the signal mask) with a socket as fd 3; returns what the script wrote there.
struct Ran {
  std::string output;
  ExitStatus status;
};
Ran run_shell(const std::string& script, SpawnOptions options = {}, int extra_fd = -1) {
  const auto shell = Binary::open("/bin/bash");
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  Fd ours(ends[0]);
  Fd theirs(ends[1]);
  std::array<int, 2> fds{theirs.get(), extra_fd};
  options.fds = std::span(fds).first(extra_fd < 0 ? 1 : 2);
  if (options.title.empty()) options.title = "title";
  options.args = {"-c", script};
  const auto process = spawn(*shell, options);
  EXPECT_TRUE(process.has_value());
  theirs.reset();
  Ran ran;
  std::array<char, 4096> chunk;
  for (ssize_t n; (n = ::read(ours.get(), chunk.data(), chunk.size())) > 0;) ran.output.append(chunk.data(), n);
  pollfd waiting{process->pidfd.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&waiting, 1, 10'000), 1);
  const auto ended = reap_one();
  EXPECT_TRUE(ended && ended->pid == process->pid);
  if (ended) ran.status = ended->status;
  return ran;
}

TEST(Spawn, GivesTheChildNothingButWhatIsNamed) {
  const Fd stray(::open("/dev/zero", O_RDONLY));  // without CLOEXEC on purpose
  const Fd extra(::open("/dev/full", O_RDONLY | O_CLOEXEC));
  const auto ran = run_shell(
      "for f in 0 3 4; do readlink /proc/$$/fd/$f >&3; done; f=5; "
      "while [ $f -lt 64 ]; do [ -e /proc/$$/fd/$f ] && echo stray $f >&3; f=$((f+1)); done; echo end >&3",
      {}, extra.get());
  EXPECT_TRUE(ran.output.starts_with("/dev/null\nsocket:["));
  EXPECT_NE(ran.output.find("\n/dev/full\n"), std::string::npos);
  EXPECT_TRUE(ran.output.ends_with("\n/dev/full\nend\n")) << ran.output;
}

TEST(Spawn, KeepsOrderWhenDescriptorsWouldOverwriteEachOther) {
  // 3 and 4 of the child are other descriptors of the parent: each dup2 alone could destroy the next one's source.
  const Fd extra(::open("/dev/full", O_RDONLY | O_CLOEXEC));
  const auto ran = run_shell("readlink /proc/$$/fd/4 >&3", {}, extra.get());
  EXPECT_EQ(ran.output, "/dev/full\n");
}

TEST(Spawn, ShowsTheTitle) {
  SpawnOptions options;
  options.title = "ebbgate: worker g1/0";
  const auto ran = run_shell("tr '\\0' '|' < /proc/$$/cmdline >&3", options);
  EXPECT_TRUE(ran.output.starts_with("ebbgate: worker g1/0|-c|")) << ran.output;
}

TEST(Spawn, InheritsTheBlockedMaskAndResetsDispositions) {
  sigset_t set, before;
  sigemptyset(&set);
  sigaddset(&set, SIGHUP);
  ::sigprocmask(SIG_BLOCK, &set, &before);
  ::signal(SIGUSR1, SIG_IGN);
  const auto ran = run_shell("exec grep -E '^Sig(Blk|Ign)' /proc/self/status >&3");
  ::signal(SIGUSR1, SIG_DFL);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  EXPECT_EQ(ran.output, "SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n");  // HUP blocked; PIPE alone ignored
}

TEST(Spawn, LimitsOpenFiles) {
  SpawnOptions options;
  options.max_open_files = 99;
  EXPECT_EQ(run_shell("ulimit -n >&3", options).output, "99\n");
}

TEST(Spawn, TellsHowTheChildEnded) {
  EXPECT_EQ(run_shell("exit 7").status, (ExitStatus{false, 7}));
  const auto killed = run_shell("kill -9 $$").status;
  EXPECT_EQ(killed, (ExitStatus{true, SIGKILL}));
  EXPECT_EQ(killed.text(), "signal 9 (Killed)");
}

TEST(Spawn, ReportsAnExecThatFails) {
  const auto binary = Binary::open("/etc/passwd");
  ASSERT_TRUE(binary.has_value());
  const auto process = spawn(*binary, {.title = "x"});
  ASSERT_FALSE(process.has_value());
  EXPECT_EQ(process.error().what, "exec: Permission denied");
  EXPECT_FALSE(reap_one().has_value());  // no zombie
}

TEST(Environment, TakesSignalsByDescriptor) {
  sigset_t before;
  ::sigprocmask(SIG_BLOCK, nullptr, &before);
  const auto fd = take_signals();
  ASSERT_TRUE(fd.has_value());
  EXPECT_EQ(next_signal(fd->get()), 0);
  ::raise(SIGHUP);
  EXPECT_EQ(next_signal(fd->get()), SIGHUP);
  EXPECT_EQ(next_signal(fd->get()), 0);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace
}  // namespace ebb::supervisor
