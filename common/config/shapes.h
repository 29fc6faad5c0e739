// Value shapes that several sections share. spec/config.md 4 and 20. Every reader reports its own findings.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/address.h"
#include "common/config/config.h"
#include "common/config/reader.h"
#include "common/config/text.h"

namespace ebb::config {

/// A string list with the place of every entry: an array, or one string split at commas (not trimmed).
struct StringList {
  std::vector<std::string> items;
  std::vector<Value> places;
};
std::optional<StringList> read_string_list(const Value& value);

/// An address: IP or name, `env:NAME` replaced. Refuses what no protocol can carry (empty, above 255 bytes).
std::optional<Host> read_address(const Value& value);
/// Text to Host as spec/config.md 4.2; reading the result's text again gives the same host.
Host host_of(std::string_view text);

/// "tcp", "udp", "tcp,udp", a list; any case. Unknown names are refused.
std::optional<std::vector<Network>> read_networks(const Value& value);

/// An inbound's port: number, "a", "a-b", "env:NAME", list of these. Never empty, at most kMaxListeners ports.
constexpr std::size_t kMaxListeners = 1024;
std::optional<std::vector<PortRange>> read_inbound_ports(const Value& value);
/// A rule's port list; empty (never matches) for the number 0 and "".
std::optional<std::vector<PortRange>> read_rule_ports(const Value& value);

/// "5s", "250ms", "2m", "1h" or a number of seconds; at most 366 days.
std::optional<Millis> read_duration(const Value& value);
/// "8MiB", "512KiB" or a number of bytes; at most 1 TiB.
std::optional<std::uint64_t> read_size(const Value& value);

/// A choice word, any case. Reports nothing: callers differ in what an unknown word means.
template <class T, std::size_t N>
std::optional<T> word_in(std::string_view word, const std::pair<std::string_view, T> (&table)[N]) {
  for (const auto& [text, value] : table) {
    if (same_word(text, word)) return value;
  }
  return std::nullopt;
}

std::string ports_text(const std::vector<PortRange>& ports);  // "80,90-92"

}  // namespace ebb::config
