// log, policy and reverse. spec/config.md 6, 7, 13.
#include <charconv>

#include "common/config/draft.h"
#include "common/config/text.h"

namespace ebb::config {

void read_log(const Value& section, Draft& draft) {
  Fields fields(section);
  if (!fields.valid()) return;
  Log& log = draft.log;
  log.access_on = true;
  log.access = fields.string("access").value_or("");
  log.error = fields.string("error").value_or("");
  if (log.access == "none") log.access_on = false, log.access.clear();
  if (log.error == "none") log.error_on = false, log.error.clear();
  if (const auto level = fields.find("loglevel")) {
    constexpr std::pair<std::string_view, LogLevel> kLevels[] = {{"debug", LogLevel::debug},
                                                                 {"info", LogLevel::info},
                                                                 {"warning", LogLevel::warning},
                                                                 {"error", LogLevel::error},
                                                                 {"none", LogLevel::none}};
    const auto word = level->string();
    const auto found = word ? word_in(*word, kLevels) : std::nullopt;
    if (word && !found) {
      level->warn("VALUE", "unknown level " + quoted(*word) + " is treated as \"warning\"",
                  "debug, info, warning, error or none");
    }
    log.level = found.value_or(LogLevel::warning);
  }
  if (log.level == LogLevel::none) {
    log.access_on = log.error_on = false;
    log.access.clear(), log.error.clear();
  }
  fields.no_effect({"dnsLog", "maskAddress"});
}

namespace {

PolicyLevel read_level(const Value& value) {
  PolicyLevel out;
  Fields fields(value);
  const auto seconds = [&](std::string_view key, Millis& into) {
    if (const auto number = fields.number<std::uint32_t>(key)) into = std::chrono::seconds(*number);
  };
  seconds("handshake", out.handshake);
  seconds("connIdle", out.conn_idle);
  seconds("uplinkOnly", out.uplink_only);
  seconds("downlinkOnly", out.downlink_only);
  if (out.handshake.count() == 0) {
    if (const auto key = fields.find("handshake"))
      key->warn("VALUE", "a handshake time of 0 closes every connection at once");
  }
  fields.no_effect({"bufferSize"}, "has no effect; see ebbgate.limits.streamBuffer");
  fields.no_effect({"statsUserUplink", "statsUserDownlink", "statsUserOnline"},
                   "has no effect: stats are not built yet");
  return out;
}

/// Reads what bridges and portals share; an empty tag or domain is refused.
template <class T>
ReverseDraft<T> read_end(const Value& element, std::string_view what) {
  ReverseDraft<T> out{{}, element, {}, {}};
  Fields fields(element, what);
  if (!fields.valid()) return out;
  const auto text = [&](std::string_view key, std::optional<Value>& place, std::string& into) {
    place = fields.find(key);
    if (!place) {
      element.report().refuse("MISSING", element.missing(key),
                              std::string(what) + " has no \"" + std::string(key) + "\"");
      return;
    }
    into = place->string().value_or("");
    if (place->kind() != Kind::string) return;
    if (into.empty()) place->refuse("VALUE", std::string(what) + " " + std::string(key) + " is empty");
    if (into.size() > 255)
      place->refuse("VALUE", std::string(what) + " " + std::string(key) + " is longer than 255 bytes");
  };
  text("tag", out.tag, out.value.tag);
  text("domain", out.domain, out.value.domain);
  return out;
}

}  // namespace

void read_policy(const std::optional<Value>& section, Draft& draft) {
  if (!section) {
    draft.policy[1].conn_idle = Millis(600'000);  // what V2Ray does without the section
    return;
  }
  Fields fields(*section);
  if (const auto levels = fields.find("levels")) {
    for (const auto& [key, value] : levels->members()) {
      std::uint32_t number = 0;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), number);
      if (error != std::errc{} || end != key.data() + key.size()) {
        value.refuse("VALUE", quoted(key) + " is not a level number", "write \"0\": { … }");
        continue;
      }
      draft.policy[number] = read_level(value);
    }
  }
  if (const auto system = fields.find("system")) {
    Fields switches(*system);
    switches.no_effect({"statsInboundUplink", "statsInboundDownlink", "statsOutboundUplink", "statsOutboundDownlink"},
                       "has no effect: stats are not built yet");
    switches.no_effect({"overrideAccessLogDest"});
  }
}

void read_reverse(const Value& section, Draft& draft) {
  Fields fields(section);
  if (const auto bridges = fields.find("bridges")) {
    for (const auto& element : bridges->elements()) draft.bridges.push_back(read_end<Bridge>(element, "bridge"));
  }
  if (const auto portals = fields.find("portals")) {
    for (const auto& element : portals->elements()) draft.portals.push_back(read_end<Portal>(element, "portal"));
  }
}

}  // namespace ebb::config
