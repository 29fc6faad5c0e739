// A tunnel's bytes, whole and in pieces, into both roles of a mux session: both ways of cutting must look the same to
// the owner, also when his callbacks close streams.
#include <algorithm>
#include <cassert>

#include "tests/unit/protocol/mux/recorder.h"

namespace {

using ebb::ConstSpan;
using ebb::StreamId;
using ebb::mux::Role;
using ebb::mux::Session;

struct Result {
  bool fatal = false;
  bool border = false;
  std::vector<std::string> events, output;
  std::size_t live = 0;
  bool operator==(const Result&) const = default;
};

Result run(Role role, ConstSpan in, std::size_t piece, std::uint8_t flags) {
  const auto closing = static_cast<std::uint8_t>(flags & 7);
  Session session(role, {.max_streams = 8, .max_ids = 64});
  if ((flags & 8) != 0) session.agree_end_data();
  ebb::test::Recorder log;
  log.then = [&](StreamId id) {
    if (log.lines.back().starts_with("data")) return;  // how much came before a close would depend on the cuts
    assert(session.end_data().size() <= Session::kMaxEndData);
    if (log.lines.back().starts_with("end")) log.lines.back() += " " + ebb::to_hex(session.end_data());
    if (closing != 0 && id.value % closing == 0) session.close(StreamId{static_cast<std::uint16_t>(id.value + 1)});
    if (closing != 0 && id.value % closing == 1) session.close(id);
  };
  std::array<std::uint8_t, ebb::mux::kMaxHead> head;
  for (int i = 0; role == Role::opener && i < 4; ++i) {
    const auto network = i % 2 == 0 ? ebb::Network::tcp : ebb::Network::udp;
    (void)session.open({network, ebb::IpAddress{}, 80}, nullptr, head);
  }
  Result out;
  while (!in.empty() && !out.fatal) {
    const auto now = in.first(std::min(in.size(), piece));
    out.fatal = !session.feed(now, log);
    in = in.subspan(now.size());
  }
  out.border = session.at_frame_border();
  out.live = session.live_streams();
  out.events = std::move(log.lines);
  out.output = ebb::test::frames_of(session.take_output());
  assert(out.live <= 8);
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const auto role = (data[0] & 1) != 0 ? Role::opener : Role::acceptor;
  const ConstSpan in(data + 2, size - 2);
  const auto whole = run(role, in, size, data[1]);
  auto pieces = run(role, in, 1 + (data[0] >> 1), data[1]);
  if (whole.fatal) pieces.border = whole.border;  // a fatal head may be seen a piece earlier
  assert(whole == pieces);
  return 0;
}
