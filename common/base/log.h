// The two logs: V2Ray's line shapes (spec/config.md 6.1, 6.2) or one JSON object per line, one write() a line of at
// most 4 KiB.
//
//   log_event(log::Level::info, "reverse", "tunnel opened", kv("conn", id), kv("tag", tag), kv("rtt_ms", rtt));
//   2026/11/20 23:09:42 [Info] [1294272712] reverse: tunnel opened tag=portal rtt_ms=12
//
// Messages are past-tense and fixed; what varies is a field. Keys, passwords, user ids and payload are never fields.
#pragma once

#include <chrono>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "common/base/address.h"
#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/base/strong_id.h"

namespace ebb {

/// One `key=value` behind a message, by reference: nothing is formatted unless the line is written.
/// The key "conn" is special: it becomes the second bracket of V2Ray's line.
template <class T>
struct Field {
  std::string_view key;
  const T& value;
};
template <class T>
Field<T> kv(std::string_view key, const T& value) {
  return {key, value};
}

/// Bytes a peer chose: always in quotes, with everything unprintable escaped. Other text is quoted when it needs to be.
struct Quoted {
  std::string_view bytes;
};
inline Quoted quote(std::string_view bytes) { return {bytes}; }  // not "quoted": std::quoted would win

namespace log {

enum class Level : std::uint8_t { debug, info, warning, error, none };  // the order of config::LogLevel
enum class Format : std::uint8_t { v2ray, json };
enum class Stream : std::uint8_t { error, access };

inline constexpr std::size_t kMaxLineBytes =
    4096;  // with the newline: PIPE_BUF, so lines of several processes never mix

struct Settings {
  Level level = Level::warning;  // `none` turns both logs off, as V2Ray 4.34 does
  Format format = Format::v2ray;
  Fd error;                                                      // empty: no error log
  Fd access;                                                     // empty: no access log
  std::function<std::chrono::system_clock::time_point()> clock;  // empty: the real one
};

using Value = std::variant<std::int64_t, std::uint64_t, double, bool, std::string_view, std::string, Quoted>;
struct RenderedField {
  std::string_view key;
  Value value;
};

/// A connection's line in the access log. Only the pointed-to things that are wanted need to be there.
struct AccessLine {
  const Endpoint* source = nullptr;       // null: none (traffic out of a bridge), printed as nothing
  std::optional<Network> source_network;  // the "tcp:"/"udp:" that socks and mux-carried connections put before it
  bool accepted = true;                   // else "rejected"
  const Target* target = nullptr;         // as the client asked for it
  std::string_view target_text;           // printed when `target` is null
  std::string_view outbound_tag;          // "" is left out
  std::string_view reason;                // of a rejection
  std::string_view user;                  // e-mail; "" is left out
};

/// Both logs of a process. Thread-safe. A line that cannot be written at once (full disk, full pipe) is dropped and
/// counted: logging never waits for a reader. The process ignores SIGPIPE.
class Logger {
 public:
  explicit Logger(Settings settings);
  ~Logger();
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  bool enabled(Level level) const;
  bool access_enabled() const;
  void set_level(Level level);
  /// Between two lines; a line that another thread writes meanwhile may mix both forms.
  void set_format(Format format);
  /// Later lines go to `fresh`, by dup3 onto the old descriptor number where there is one. An empty `fresh` ends that
  /// log.
  void swap(Stream stream, Fd fresh);
  std::uint64_t dropped_lines() const;

  void event(Level level, std::string_view component, std::string_view message, std::span<const RenderedField> fields);
  void access(const AccessLine& line);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Makes the logs of this process, once, before it has threads. Without it every line is discarded.
void init(Settings settings);
/// The logs of this process; null before init().
Logger* current();

/// Opens a log file for append, creating it with mode 0600, close-on-exec. "" = a duplicate of standard output.
/// Errors: os, "open PATH: No such file or directory". spec/config.md 6.
Result<Fd> open_log(const std::string& path);

/// How a value of T is shown. Overload it beside T for further types; anything with text() const works already.
inline Value to_value(bool v) { return v; }
inline Value to_value(std::signed_integral auto v) { return std::int64_t{v}; }
inline Value to_value(std::unsigned_integral auto v) { return std::uint64_t{v}; }
inline Value to_value(std::floating_point auto v) { return double{v}; }
inline Value to_value(std::string_view v) { return v; }
inline Value to_value(const std::string& v) { return std::string_view(v); }
inline Value to_value(const char* v) { return std::string_view(v); }
inline Value to_value(Quoted v) { return v; }
inline Value to_value(const Error& e) { return e.where.empty() ? e.what : e.where + ": " + e.what; }
template <class T>
  requires requires(const T& v) {
    { v.text() } -> std::convertible_to<std::string>;
  }
Value to_value(const T& v) {
  return std::string(v.text());
}
template <class Rep, class Kind>
Value to_value(const Strong<Rep, Kind>& id) {
  return to_value(id.value);
}
Value to_value(const UserId& id) = delete;  // a user id is a key: log the e-mail

}  // namespace log

inline bool log_enabled(log::Level level) {
  const log::Logger* logger = log::current();
  return logger != nullptr && logger->enabled(level);
}

/// One line of the error log. `component` names the part that speaks ("reverse", "inbound/vmess"). Cheap when the level
/// is off.
template <class... T>
void log_event(log::Level level, std::string_view component, std::string_view message, const Field<T>&... fields) {
  if (!log_enabled(level)) return;
  using log::to_value;
  const log::RenderedField rendered[] = {{fields.key, to_value(fields.value)}..., {}};
  log::current()->event(level, component, message, std::span(rendered).first(sizeof...(fields)));
}

/// One line of the access log. Cheap when it is off.
inline void log_access(const log::AccessLine& line) {
  log::Logger* logger = log::current();
  if (logger != nullptr && logger->access_enabled()) logger->access(line);
}

}  // namespace ebb
