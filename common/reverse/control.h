// Messages of a tunnel's control stream: V2Ray's Control, with our additions that old peers skip.
//
//   message Control { State state = 1 (0 ACTIVE, 1 DRAIN); bytes random = 99;          // V2Ray, v2fly, Xray
//                     Hello hello = 1000; repeated Window window = 1001; Ping ping = 1002; Notice notice = 1003; }
//   message Hello   { uint32 version = 1; uint64 features = 2; uint32 initial_window = 3; uint32 max_data = 4;
//                     bytes node_id = 5; string label = 6; uint32 weight = 7; uint32 max_datagram = 8; }
//   message Window  { uint32 session = 1; uint64 add = 2; }
//   message Ping    { fixed64 id = 1; bool reply = 2; }
//   message Notice  { uint32 code = 1; string text = 2; uint32 retry_after_ms = 3; }
//
// Of Hello::label nothing is said and nothing read: a configuration names no node, and tags are alike everywhere.
// Protobuf by hand: it is five tags, and the sizes are bounded here. Source: PROTOCOL.md, control stream.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/result.h"

namespace ebb::reverse {

inline constexpr std::uint32_t kStateActive = 0;
inline constexpr std::uint32_t kStateDrain = 1;     // and so is every value but 0
inline constexpr std::size_t kMaxControl = 2048;    // bytes of one message; V2Ray's limit for a datagram
inline constexpr std::uint32_t kNoticeRestart = 1;  // planned restart: choose another tunnel

/// Bits of Hello::features; each is used when both ends set it.
inline constexpr std::uint64_t kFeatureCredit = 0x01;         // nobody sends on a TCP stream what was not asked for
inline constexpr std::uint64_t kFeatureHalfClose = 0x02;      // Keep frames have a FIN bit
inline constexpr std::uint64_t kFeatureSourceAddress = 0x04;  // New says who the visitor is and where he arrived
inline constexpr std::uint64_t kFeaturePing = 0x08;           // Ping messages, answered at once
inline constexpr std::uint64_t kFeaturePacketAddress = 0x10;  // a UDP Keep may say where its datagram goes or is from
inline constexpr std::uint64_t kFeatureAbortReason = 0x20;    // End + Error may say why (abort_reason.h)
inline constexpr std::uint64_t kOurFeatures = kFeatureCredit | kFeatureHalfClose | kFeatureSourceAddress |
                                              kFeaturePing | kFeaturePacketAddress | kFeatureAbortReason;

struct Hello {
  std::uint32_t version = 1;
  std::uint64_t features = kOurFeatures;
  std::uint32_t initial_window = 0;
  std::uint32_t max_data = 0;  // largest TCP data part the sender of the hello accepts; 0 = as legacy
  std::array<std::uint8_t, 16> node_id{};
  std::uint32_t weight = 0;
  std::uint32_t max_datagram = 0;
  friend bool operator==(const Hello&, const Hello&) = default;
};
struct Window {
  std::uint32_t session = 0;
  std::uint64_t add = 0;
  friend bool operator==(const Window&, const Window&) = default;
};
struct Ping {
  std::uint64_t id = 0;
  bool reply = false;
  friend bool operator==(const Ping&, const Ping&) = default;
};
struct Notice {
  std::uint32_t code = 0;
  std::string text;
  std::uint32_t retry_after_ms = 0;
  friend bool operator==(const Notice&, const Notice&) = default;
};
struct Control {
  std::uint32_t state = kStateActive;
  Bytes random;  // padding; nobody looks at it
  std::optional<Hello> hello;
  std::vector<Window> windows;
  std::optional<Ping> ping;
  std::optional<Notice> notice;
  bool draining() const { return state != kStateActive; }
};

/// Zero values are omitted, as protobuf does. The result may be empty (ACTIVE without padding): such a message makes no
/// frame at legacy peers, so senders always pad.
Bytes encode_control(const Control& message);

/// Unknown fields are skipped, and so are ours when they do not parse; unknown states are kept. Errors: bad_length
/// (over kMaxControl, or a field that runs over the end), bad_command (a tag or wire type that does not exist).
Decoded<Control> decode_control(ConstSpan in);

/// What the peer calls the control stream decides who it is. Source: PROTOCOL.md, control stream.
enum class Dialect : std::uint8_t { v2ray, v2fly, xray };
inline constexpr std::string_view kControlNameV2ray = "reverse.internal.v2ray.com";
inline constexpr std::string_view kControlNameV2fly = "reverse.internal.v2fly.org";
inline constexpr std::string_view kControlNameXray = "reverse";
inline constexpr std::string_view kControlNameOldXray = "reverse.internal.example.com";

std::string_view control_name(Dialect dialect);
std::string_view name_of(Dialect dialect);  // "v2ray", "v2fly", "xray": configuration and logs
/// One of the four names, exact and case-sensitive.
bool is_control_name(std::string_view host);

}  // namespace ebb::reverse
