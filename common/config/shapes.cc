#include "common/config/shapes.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

namespace ebb::config {
namespace {

constexpr std::size_t kMaxNameBytes = 255;  // one length byte in every protocol

std::vector<std::string_view> split_commas(std::string_view text) {
  std::vector<std::string_view> out;
  for (;;) {
    const auto comma = text.find(',');
    out.push_back(text.substr(0, comma));
    if (comma == text.npos) return out;
    text.remove_prefix(comma + 1);
  }
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// The value of `env:NAME`, or the text itself. Reports an unset variable.
std::optional<std::string> expand(const Value& value, std::string_view text) {
  constexpr std::string_view kPrefix = "env:";
  if (!text.starts_with(kPrefix)) return std::string(text);
  const std::string name(text.substr(kPrefix.size()));
  const auto& environment = value.reading().surroundings.environment;
  auto found = environment ? environment(name) : std::nullopt;
  if (!found) {
    value.refuse("VALUE", "environment variable " + name + " is not set", "export it, or write the value");
    return std::nullopt;
  }
  if (found->starts_with(kPrefix)) {
    value.refuse("VALUE", "environment variable " + name + " names another variable", "write the value");
    return std::nullopt;
  }
  return found;
}

std::optional<std::uint16_t> parse_port(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size() || value > 65535) return std::nullopt;
  return static_cast<std::uint16_t>(value);
}

/// "80" or "80-90"; nothing when it is neither.
std::optional<PortRange> parse_range(std::string_view text) {
  const auto dash = text.find('-');
  const auto from = parse_port(text.substr(0, dash));
  const auto to = dash == text.npos ? from : parse_port(text.substr(dash + 1));
  if (!from || !to) return std::nullopt;
  return PortRange{*from, *to};
}

std::optional<std::uint16_t> port_number(const Value& value) {
  const std::string text(value.node().text);
  if (text.find_first_of(".eE") == std::string::npos) {
    if (const auto port = parse_port(text)) return port;
  }
  value.refuse("VALUE", "port " + (text.size() > 30 ? std::string("number") : text) + " is outside 0-65535");
  return std::nullopt;
}

std::optional<Value> number_or_string(const Value& value) {
  if (value.kind() == Kind::number || value.kind() == Kind::string) return value;
  value.refuse("TYPE", "expected a port number or a string, found " + std::string(name_of(value.kind())),
               value.kind() == Kind::array ? "write the ports as one string, \"80,90-92\"" : "");
  return std::nullopt;
}

}  // namespace

std::optional<StringList> read_string_list(const Value& value) {
  StringList out;
  if (value.kind() == Kind::string) {
    for (const auto part : split_commas(value.node().text)) {
      out.items.emplace_back(part);
      out.places.push_back(value);
      if (trim(part) != part) {
        value.warn("VALUE", "the blanks in " + quoted(part) + " are part of the entry", "write an array of strings");
      }
    }
    return out;
  }
  if (value.kind() != Kind::array) {
    value.refuse("TYPE", "expected a list of strings, found " + std::string(name_of(value.kind())),
                 "wrap it in [\" \"]");
    return std::nullopt;
  }
  bool good = true;
  for (const Value& element : value.elements()) {
    if (auto text = element.string()) {
      out.items.push_back(std::move(*text));
      out.places.push_back(element);
    } else {
      good = false;
    }
  }
  if (!good) return std::nullopt;
  return out;
}

Host host_of(std::string_view text) {
  Host host = parse_host(text);
  // Trimming can uncover brackets; what comes out must read back as itself.
  for (int again = 0; again < 2; ++again) {
    if (const auto* name = std::get_if<std::string>(&host)) host = parse_host(std::string(*name));
  }
  return host;
}

std::optional<Host> read_address(const Value& value) {
  const auto text = value.string();
  if (!text) return std::nullopt;
  const auto expanded = expand(value, *text);
  if (!expanded) return std::nullopt;
  Host host = host_of(*expanded);
  const auto* name = std::get_if<std::string>(&host);
  if (name == nullptr) return host;
  if (name->empty()) {
    value.refuse("VALUE", "address is empty");
    return std::nullopt;
  }
  if (name->size() > kMaxNameBytes) {
    value.refuse("VALUE", "address is longer than 255 bytes");
    return std::nullopt;
  }
  const bool plain = std::all_of(name->begin(), name->end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.' || c == '_';
  });
  if (!plain)
    value.warn("VALUE", quoted(*name) + " cannot be a host name; dialling it will fail", "is it a placeholder?");
  return host;
}

std::optional<std::vector<Network>> read_networks(const Value& value) {
  const auto list = read_string_list(value);
  if (!list) return std::nullopt;
  std::vector<Network> out;
  for (std::size_t i = 0; i < list->items.size(); ++i) {
    constexpr std::pair<std::string_view, Network> kNetworks[] = {{"tcp", Network::tcp}, {"udp", Network::udp}};
    const auto network = word_in(trim(list->items[i]), kNetworks);
    if (!network) {
      list->places[i].refuse("VALUE", "unknown network " + quoted(list->items[i]), "use tcp, udp or \"tcp,udp\"");
      return std::nullopt;
    }
    if (std::find(out.begin(), out.end(), *network) == out.end()) out.push_back(*network);
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::optional<std::vector<PortRange>> read_inbound_ports(const Value& value) {
  if (!number_or_string(value)) return std::nullopt;
  if (value.kind() == Kind::number) {
    const auto port = port_number(value);
    if (!port) return std::nullopt;
    return std::vector{PortRange{*port, *port}};
  }
  const auto text = expand(value, value.node().text);
  if (!text) return std::nullopt;
  std::vector<PortRange> out;
  std::size_t listeners = 0;
  for (const auto part : split_commas(*text)) {
    const auto range = parse_range(trim(part));
    if (!range) {
      const auto number = trim(part);
      const bool digits = !number.empty() && number.find_first_not_of("0123456789") == number.npos;
      value.refuse("VALUE", digits ? "port " + quoted(number) + " is outside 0-65535" : quoted(part) + " is not a port",
                   digits ? "" : "write 1080, \"1080-1090\" or \"env:NAME\"");
      return std::nullopt;
    }
    if (range->from > range->to) {
      value.refuse("VALUE", "range start is greater than its end",
                   "write \"" + std::to_string(range->to) + "-" + std::to_string(range->from) + "\"");
      return std::nullopt;
    }
    listeners += range->to - range->from + 1u;
    out.push_back(*range);
    if (listeners > kMaxListeners) {
      value.refuse("VALUE", "one inbound may listen on at most 1024 ports", "use several inbounds");
      return std::nullopt;
    }
  }
  if (out.size() > 1) {
    value.warn("COMPAT", "a list of ports works here and in Xray; V2Ray 4.x/5.x refuse it",
               "use a range or several inbounds");
  }
  return out;
}

std::optional<std::vector<PortRange>> read_rule_ports(const Value& value) {
  if (!number_or_string(value)) return std::nullopt;
  std::vector<PortRange> out;
  if (value.kind() == Kind::number) {
    const auto port = port_number(value);
    if (!port) return std::nullopt;
    if (*port != 0) out.push_back({*port, *port});
    return out;
  }
  const auto text = expand(value, value.node().text);
  if (!text) return std::nullopt;
  if (trim(*text).empty()) return out;
  for (const auto part : split_commas(*text)) {
    const auto item = trim(part);
    const auto dash = item.find('-');
    const auto from = parse_port(trim(item.substr(0, dash)));
    const auto to = dash == item.npos ? from : parse_port(trim(item.substr(dash + 1)));
    if (!from || !to) {
      value.refuse("VALUE", quoted(part) + " is not a port or a range of ports", "write \"80,443,8000-8100\"");
      return std::nullopt;
    }
    out.push_back({*from, *to});
  }
  return out;
}

namespace {

struct Unit {
  std::string_view name;
  double factor;
};

/// A number with one of the units, or a bare number in `bare` units; nothing when it is neither, or above `most`.
template <std::size_t N>
std::optional<std::uint64_t> measure(const Value& value, const Unit (&units)[N], double bare, double most) {
  std::string_view text = value.node().text;
  double factor = bare;
  if (value.kind() == Kind::string) {
    const auto number_end = text.find_first_not_of("0123456789.");
    if (number_end == text.npos || number_end == 0) return std::nullopt;
    factor = 0;
    for (const auto& unit : units) {
      if (text.substr(number_end) == unit.name) factor = unit.factor;
    }
    if (factor == 0) return std::nullopt;
    text = text.substr(0, number_end);
  } else if (value.kind() != Kind::number) {
    return std::nullopt;
  }
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  number *= factor;
  if (!(number >= 0) || number > most) return std::nullopt;
  return static_cast<std::uint64_t>(std::llround(number));
}

bool measurable(const Value& value, std::string_view what) {
  if (value.kind() == Kind::string || value.kind() == Kind::number) return true;
  value.refuse("TYPE", "expected " + std::string(what) + ", found " + std::string(name_of(value.kind())));
  return false;
}

}  // namespace

std::optional<Millis> read_duration(const Value& value) {
  constexpr Unit kUnits[] = {{"ms", 1}, {"s", 1e3}, {"m", 60e3}, {"h", 3600e3}};
  if (!measurable(value, "a duration")) return std::nullopt;
  if (const auto ms = measure(value, kUnits, 1e3, 366 * 24 * 3600e3)) return Millis(*ms);
  value.refuse("VALUE", quoted(value.node().text) + " is not a duration of at most 366 days",
               "write \"5s\", \"250ms\", \"2m\", \"1h\" or a number of seconds");
  return std::nullopt;
}

std::optional<std::uint64_t> read_size(const Value& value) {
  constexpr Unit kUnits[] = {{"B", 1}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}};
  if (!measurable(value, "a size")) return std::nullopt;
  if (const auto bytes = measure(value, kUnits, 1, 1099511627776.0)) return bytes;
  value.refuse("VALUE", quoted(value.node().text) + " is not a size of at most 1024 GiB",
               "write \"8MiB\", \"512KiB\" or a number of bytes");
  return std::nullopt;
}

std::string ports_text(const std::vector<PortRange>& ports) {
  std::string out;
  for (const auto& range : ports) {
    if (!out.empty()) out += ',';
    out += std::to_string(range.from);
    if (range.to != range.from) out += "-" + std::to_string(range.to);
  }
  return out;
}

}  // namespace ebb::config
