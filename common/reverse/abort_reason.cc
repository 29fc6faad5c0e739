#include "common/reverse/abort_reason.h"

#include <algorithm>

namespace ebb::reverse {

std::string_view words_of(AbortReason reason) {
  switch (reason) {
    case AbortReason::refused: return "origin refused the connection";
    case AbortReason::timeout: return "origin did not answer in time";
    case AbortReason::unreachable: return "origin could not be reached";
    case AbortReason::reset: return "the other end reset the connection";
    case AbortReason::denied: return "the other node's rules refuse it";
    case AbortReason::overload: return "the other node is overloaded";
    case AbortReason::draining: return "the other node is about to end";
  }
  return {};
}

Bytes encode_abort(const Abort& abort) {
  Bytes out{static_cast<std::uint8_t>(abort.reason)};
  const auto text = as_bytes(abort.text).first(std::min(abort.text.size(), Abort::kMaxText));
  out.insert(out.end(), text.begin(), text.end());
  return out;
}

std::optional<Abort> decode_abort(ConstSpan in) {
  if (in.empty() || in[0] == 0 || in[0] > static_cast<std::uint8_t>(AbortReason::draining)) return std::nullopt;
  Abort out{AbortReason{in[0]}};
  for (const std::uint8_t byte : in.subspan(1, std::min(in.size() - 1, Abort::kMaxText))) {
    out.text += byte >= 0x20 && byte < 0x7f ? static_cast<char>(byte) : '?';
  }
  return out;
}

Abort abort_of(const Error& why) {
  switch (why.code) {
    case Errc::refused: return {AbortReason::refused};
    case Errc::timeout: return {AbortReason::timeout};
    case Errc::unresolved: return {AbortReason::unreachable, "its name does not resolve"};
    case Errc::config:
    case Errc::unreachable: return {AbortReason::unreachable};
    case Errc::auth: return {AbortReason::denied};
    case Errc::overload: return {AbortReason::overload};
    case Errc::closed:
    case Errc::protocol:
    case Errc::os: break;  // of a connection that was there
  }
  return {AbortReason::reset};
}

Error error_of(const Abort& abort) {
  Errc code = Errc::closed;
  switch (abort.reason) {
    case AbortReason::refused: code = Errc::refused; break;
    case AbortReason::timeout: code = Errc::timeout; break;
    case AbortReason::unreachable: code = Errc::unreachable; break;
    case AbortReason::denied: code = Errc::auth; break;
    case AbortReason::overload: code = Errc::overload; break;
    case AbortReason::reset:
    case AbortReason::draining: break;
  }
  std::string what(words_of(abort.reason));
  if (!abort.text.empty()) what += ": " + abort.text;
  return Error{code, std::move(what), {}};
}

bool origin_unreached(const Error& told) {
  return told.code == Errc::refused || told.code == Errc::unreachable || told.code == Errc::timeout;
}

bool bridge_failed(const Error& told) { return told.code == Errc::auth || told.code == Errc::overload; }

}  // namespace ebb::reverse
