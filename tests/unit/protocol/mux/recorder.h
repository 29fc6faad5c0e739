// What a Session reports, as lines of text that tests compare.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/protocol/mux/session.h"

namespace ebb::test {

/// "open 2 tcp:127.0.0.1:80 [trailing]", "data 2 6869", "gram 6 udp:1.2.3.4:5 6869", "end 2", "end! 2", "stray 2".
/// Pieces of TCP data that follow one another are one line, so the log does not depend on how the input was cut.
struct Recorder : mux::SessionEvents {
  std::vector<std::string> lines;
  std::function<void(StreamId)> then;  // called after every entry

  void on_open(StreamId stream, const Target& target, ConstSpan trailing) override {
    add("open " + id(stream) + " " + target.text() + (trailing.empty() ? "" : " [" + to_hex(trailing) + "]"), stream);
  }
  void on_data(StreamId stream, void*, ConstSpan piece) override {
    const auto start = "data " + id(stream) + " ";
    if (!lines.empty() && lines.back().starts_with(start)) {
      lines.back() += to_hex(piece);
      if (then) then(stream);
      return;
    }
    add(start + to_hex(piece), stream);
  }
  void on_datagram(StreamId stream, void*, const Target* from, ConstSpan payload) override {
    add("gram " + id(stream) + (from != nullptr ? " " + from->text() : "") + " " + to_hex(payload), stream);
  }
  void on_end(StreamId stream, void*, bool error) override { add((error ? "end! " : "end ") + id(stream), stream); }
  void on_fin(StreamId stream, void*) override { add("fin " + id(stream), stream); }
  void on_stray_end(StreamId stream) override { add("stray " + id(stream), stream); }

 private:
  static std::string id(StreamId stream) { return std::to_string(stream.value); }
  void add(std::string line, StreamId stream) {
    lines.push_back(std::move(line));
    if (then) then(stream);
  }
};

/// Whole frames of a byte stream, each as hex with its data. A rest that is no whole frame becomes one last entry.
inline std::vector<std::string> frames_of(ConstSpan bytes) {
  std::vector<std::string> out;
  while (!bytes.empty()) {
    const auto step = mux::decode_head(bytes);
    auto size = bytes.size();
    if (step && step->message && step->used + step->message->data_bytes <= size) {
      size = step->used + step->message->data_bytes;
    }
    out.push_back(to_hex(bytes.first(size)));
    bytes = bytes.subspan(size);
  }
  return out;
}

inline Bytes unhex(std::string_view hex) { return from_hex(hex).value(); }

/// A small generator for random cuts: the same on every machine.
struct Dice {
  std::uint64_t state = 1;
  std::size_t below(std::size_t limit) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return static_cast<std::size_t>(state >> 33) % limit;
  }
};

}  // namespace ebb::test
