// What this process logs while one of these lives.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "common/base/fd.h"
#include "common/base/log.h"

namespace ebb::test {

class LogLines {
 public:
  LogLines() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return;
    read_ = Fd(ends[0]);
    if (log::current() == nullptr) {
      log::init({.level = log::Level::info, .error = Fd(ends[1])});
    } else {
      log::current()->swap(log::Stream::error, Fd(ends[1]));
    }
  }
  LogLines(const LogLines&) = delete;
  LogLines& operator=(const LogLines&) = delete;
  ~LogLines() { log::current()->swap(log::Stream::error, Fd()); }

  /// How many have `words` in them, since the beginning.
  std::size_t count(std::string_view words) {
    char some[4096];
    for (ssize_t got; (got = ::read(read_.get(), some, sizeof some)) > 0;)
      text_.append(some, static_cast<std::size_t>(got));
    std::size_t out = 0;
    for (auto at = text_.find(words); at != std::string::npos; at = text_.find(words, at + 1)) ++out;
    return out;
  }

 private:
  Fd read_;
  std::string text_;
};

}  // namespace ebb::test
