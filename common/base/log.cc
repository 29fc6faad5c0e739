#include "common/base/log.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <sys/stat.h>

#include <atomic>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "common/base/log_line.h"

namespace ebb::log {
namespace {

constexpr std::string_view kTextPattern = "%Y/%m/%d %H:%M:%S %v";
constexpr std::string_view kJsonPattern = "{\"time\":\"%Y-%m-%dT%H:%M:%S%z\",%v";

/// spdlog brings the lock and a time stamp that is formatted once a second; we bring "one write, never wait, count what
/// is lost".
class LineSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  LineSink(Fd fd, std::string_view pattern)
      : base_sink(
            std::make_unique<spdlog::pattern_formatter>(std::string(pattern), spdlog::pattern_time_type::local, "\n")) {
    swap(std::move(fd));
  }

  void swap(Fd fresh) {
    const std::lock_guard lock(mutex_);
    if (fresh && fd_ && ::dup3(fresh.get(), fd_.get(), O_CLOEXEC) >= 0)
      fresh.reset();
    else
      fd_ = std::move(fresh);
    struct stat info{};
    may_block_ = fd_ && (::fstat(fd_.get(), &info) != 0 || !S_ISREG(info.st_mode));
    on_.store(bool(fd_), std::memory_order_relaxed);
  }
  void use_pattern(std::string_view pattern) {
    set_formatter(
        std::make_unique<spdlog::pattern_formatter>(std::string(pattern), spdlog::pattern_time_type::local, "\n"));
  }
  bool on() const { return on_.load(std::memory_order_relaxed); }
  std::uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (!fd_) return;
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    // A pipe that polls writable has room for PIPE_BUF bytes. We cannot set O_NONBLOCK: the description is shared with
    // whoever gave us standard output.
    pollfd writable{fd_.get(), POLLOUT, 0};
    const bool room = !may_block_ || (::poll(&writable, 1, 0) == 1 && (writable.revents & POLLOUT) != 0);
    ssize_t written = -1;
    if (room) do
        written = ::write(fd_.get(), line.data(), line.size());
      while (written < 0 && errno == EINTR);
    if (written != static_cast<ssize_t>(line.size())) dropped_.fetch_add(1, std::memory_order_relaxed);
  }
  void flush_() override {}

  Fd fd_;
  bool may_block_ = false;
  std::atomic<bool> on_{false};
  std::atomic<std::uint64_t> dropped_{0};
};

std::atomic<Logger*> process_logger{nullptr};

std::string_view pattern_of(Format format) { return format == Format::json ? kJsonPattern : kTextPattern; }

}  // namespace

struct Logger::State {
  State(Settings&& settings, std::string_view pattern)
      : format(settings.format),
        clock(std::move(settings.clock)),
        level(settings.level),
        error(std::move(settings.error), pattern),
        access(std::move(settings.access), pattern) {}

  LineSink& sink(Stream stream) { return stream == Stream::error ? error : access; }
  void write(LineSink& to, std::string_view body) const {
    const auto now = clock ? clock() : std::chrono::system_clock::now();
    to.log({now, {}, {}, spdlog::level::info, {body.data(), body.size()}});
  }

  std::atomic<Format> format;
  const std::function<std::chrono::system_clock::time_point()> clock;
  std::atomic<Level> level;
  LineSink error;
  LineSink access;
};

Logger::Logger(Settings settings) {
  const auto pattern = pattern_of(settings.format);
  state_ = std::make_unique<State>(std::move(settings), pattern);
}

Logger::~Logger() = default;

bool Logger::enabled(Level level) const {
  return level >= state_->level.load(std::memory_order_relaxed) && level != Level::none && state_->error.on();
}

bool Logger::access_enabled() const {
  return state_->access.on() && state_->level.load(std::memory_order_relaxed) != Level::none;
}

void Logger::set_level(Level level) { state_->level.store(level, std::memory_order_relaxed); }

void Logger::set_format(Format format) {
  if (state_->format.exchange(format, std::memory_order_relaxed) == format) return;
  state_->error.use_pattern(pattern_of(format));
  state_->access.use_pattern(pattern_of(format));
}

void Logger::swap(Stream stream, Fd fresh) { state_->sink(stream).swap(std::move(fresh)); }

std::uint64_t Logger::dropped_lines() const { return state_->error.dropped() + state_->access.dropped(); }

void Logger::event(Level level, std::string_view component, std::string_view message,
                   std::span<const RenderedField> fields) {
  if (!enabled(level)) return;
  LineBody line;
  const auto shape = state_->format.load(std::memory_order_relaxed) == Format::json ? event_as_json : event_as_text;
  shape(line, level, component, message, fields);
  state_->write(state_->error, line.text());
}

void Logger::access(const AccessLine& access) {
  if (!access_enabled()) return;
  LineBody line;
  const auto shape = state_->format.load(std::memory_order_relaxed) == Format::json ? access_as_json : access_as_text;
  shape(line, access);
  state_->write(state_->access, line.text());
}

void init(Settings settings) {
  assert(current() == nullptr);
  process_logger.store(new Logger(std::move(settings)),
                       std::memory_order_release);  // never freed: threads log to the last
}

Logger* current() { return process_logger.load(std::memory_order_acquire); }

Result<Fd> open_log(const std::string& path) {
  Fd fd(path.empty() ? ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
                     : ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600));
  if (fd) return fd;
  return std::unexpected{
      Error{Errc::os, "open " + (path.empty() ? "standard output" : path) + ": " + std::strerror(errno), {}}};
}

}  // namespace ebb::log
