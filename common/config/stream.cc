// streamSettings and sniffing. spec/config.md 8.1 and 10. Only raw TCP is built; the rest is refused by name.
#include "common/config/draft.h"
#include "common/config/text.h"

namespace ebb::config {
namespace {

enum class Transport : std::uint8_t { tcp, unbuilt, unsupported };
constexpr std::pair<std::string_view, Transport> kTransports[] = {
    {"tcp", Transport::tcp},
    {"raw", Transport::tcp},
    {"ws", Transport::unbuilt},
    {"websocket", Transport::unbuilt},
    {"ds", Transport::unbuilt},
    {"domainsocket", Transport::unbuilt},
    {"httpupgrade", Transport::unbuilt},
    {"grpc", Transport::unsupported},
    {"gun", Transport::unsupported},
    {"h2", Transport::unsupported},
    {"http", Transport::unsupported},
    {"kcp", Transport::unsupported},
    {"mkcp", Transport::unsupported},
    {"quic", Transport::unsupported},
    {"xhttp", Transport::unsupported},
    {"splithttp", Transport::unsupported},
    {"hysteria", Transport::unsupported},
    {"hysteria2", Transport::unsupported},
    {"hy2", Transport::unsupported},
};

void read_network(const Value& value) {
  const auto word = value.string();
  if (!word || word->empty()) return;
  const auto transport = word_in(*word, kTransports);
  if (!transport) {
    value.refuse("UNKNOWN_TRANSPORT", "unknown transport " + quoted(*word),
                 same_word(*word, "wss") ? "use \"network\": \"ws\" with \"security\": \"tls\""
                                         : did_you_mean(*word, {"tcp", "ws", "grpc", "httpupgrade"}));
  } else if (*transport == Transport::unbuilt) {
    value.refuse("UNSUPPORTED", "transport " + quoted(*word) + " is not built yet", "use \"network\": \"tcp\"");
  } else if (*transport == Transport::unsupported) {
    value.refuse("UNKNOWN_TRANSPORT", "transport " + quoted(*word) + " is not supported", "use \"network\": \"tcp\"");
  }
}

void read_security(const Value& value) {
  const auto word = value.string();
  if (!word || word->empty() || same_word(*word, "none")) return;
  if (same_word(*word, "tls")) {
    value.refuse("UNSUPPORTED", "TLS is not built yet", "write \"none\" only if nobody else can see the traffic");
  } else if (same_word(*word, "reality") || same_word(*word, "xtls")) {
    value.refuse("UNSUPPORTED", (same_word(*word, "xtls") ? "XTLS" : "REALITY") + std::string(" is not supported"),
                 "use \"tls\" with a certificate");
  } else {
    value.refuse("VALUE", "unknown security " + quoted(*word) + ": V2Ray 4.x/5.x would silently run WITHOUT encryption",
                 "use \"tls\" or \"none\"");
  }
}

/// Where it is switched on. Stock programs ignore it on an outbound.
std::optional<Value> read_accept_proxy(Fields& fields, Side side) {
  if (!fields.boolean("acceptProxyProtocol").value_or(false)) return std::nullopt;
  const auto value = fields.find("acceptProxyProtocol");
  if (side == Side::inbound) return value;
  value->warn("INEFFECTIVE", "\"acceptProxyProtocol\" has no effect on an outbound",
              "to write a header use ebbgate.portals.TAG.proxyProtocol or ebbgate.bridges.TAG.proxyProtocol");
  return std::nullopt;
}

std::optional<Value> read_tcp_settings(const Value& value, Side side) {
  Fields fields(value);
  const auto accept_proxy = read_accept_proxy(fields, side);
  const auto header = fields.find("header");
  if (!header) return accept_proxy;
  Fields inner(*header);
  inner.known({"request", "response"});
  const auto type = inner.find("type");
  const auto word = type ? type->string() : std::nullopt;
  if (!word || word->empty() || same_word(*word, "none")) return accept_proxy;
  type->refuse(same_word(*word, "http") ? "UNSUPPORTED" : "VALUE", "tcp header " + quoted(*word) + " is not supported",
               "write \"none\"");
  return accept_proxy;
}

std::optional<Value> read_sockopt(const Value& value, Side side) {
  Fields fields(value);
  if (fields.number<std::int32_t>("mark")) fields.unsupported("mark", "sockopt.mark is not built yet");
  if (const auto tproxy = fields.find("tproxy")) {
    const auto word = tproxy->string();
    if (word && !word->empty() && !same_word(*word, "off")) {
      tproxy->refuse("UNSUPPORTED", "sockopt.tproxy is not built yet", "write \"off\"");
    }
  }
  if (const auto strategy = fields.string("domainStrategy"); strategy && !same_word(*strategy, "AsIs")) {
    fields.unsupported("domainStrategy", "sockopt.domainStrategy is not built yet", "write \"AsIs\"");
  }
  const auto accept_proxy = read_accept_proxy(fields, side);
  fields.unsupported_text("dialerProxy", "sockopt.dialerProxy (one outbound through another) is not built yet");
  fields.unsupported_text("bindToDevice", "sockopt.bindToDevice is not built yet");
  fields.unsupported_text("interface", "sockopt.interface is not built yet");
  fields.unsupported_flag("v6only", "sockopt.v6only is not built yet");
  fields.unsupported_text("addressPortStrategy", "sockopt.addressPortStrategy is not supported");
  fields.unsupported("customSockopt", "sockopt.customSockopt is not supported");
  fields.no_effect({"tcpFastOpen", "tcpKeepAliveInterval", "tcpKeepAliveIdle", "tcpUserTimeout", "tcpCongestion",
                    "tcpWindowClamp", "tcpMaxSeg", "tcpMptcp", "mptcp", "rxBufSize", "txBufSize", "happyEyeballs",
                    "penetrate", "trustedXForwardedFor"});
  return accept_proxy;
}

}  // namespace

std::optional<Value> read_stream(const Value& section, Side side) {
  std::optional<Value> accept_proxy;
  Fields fields(section);
  if (!fields.valid()) return accept_proxy;
  if (const auto network = fields.find_any({"network", "method"})) read_network(*network);
  if (const auto security = fields.find("security")) read_security(*security);
  // Blocks of transports and security that are not chosen do nothing; a chosen one was refused above.
  fields.known({"tlsSettings", "kcpSettings", "wsSettings", "httpSettings", "dsSettings", "quicSettings",
                "grpcSettings", "gunSettings", "httpupgradeSettings", "xhttpSettings", "splithttpSettings",
                "hysteriaSettings"});
  // Asked for in any of its places it is on: which one wins elsewhere depends on program and version.
  const auto asked = [&accept_proxy](std::optional<Value> where) {
    if (where) accept_proxy = std::move(where);
  };
  if (const auto tcp = fields.find("tcpSettings")) asked(read_tcp_settings(*tcp, side));
  if (const auto raw = fields.find("rawSettings")) asked(read_tcp_settings(*raw, side));
  if (const auto sockopt = fields.find("sockopt")) asked(read_sockopt(*sockopt, side));
  for (const auto key : {"xtlsSettings", "realitySettings", "finalmask"}) {
    fields.unsupported(key, quoted(key) + " is not supported", "remove it");
  }
  if (side == Side::outbound) {
    fields.unsupported("address", "streamSettings.address is not supported");
    fields.unsupported("port", "streamSettings.port is not supported");
  }
  return accept_proxy;
}

bool read_sniffing(const Value& section) {
  Fields fields(section);
  if (!fields.valid()) return false;
  const bool enabled = fields.boolean("enabled").value_or(false);
  if (const auto override_list = fields.find("destOverride")) {
    const auto list = read_string_list(*override_list);
    for (std::size_t i = 0; list && i < list->items.size(); ++i) {
      constexpr std::pair<std::string_view, bool> kWords[] = {
          {"http", true}, {"tls", true},      {"https", true},          {"ssl", true},
          {"quic", true}, {"fakedns", false}, {"fakedns+others", false}};
      const auto known = word_in(list->items[i], kWords);
      const bool bittorrent = same_word(list->items[i], "bittorrent");
      if (!known) {
        list->places[i].refuse("VALUE",
                               bittorrent ? "\"bittorrent\" carries no host name and cannot override the destination"
                                          : "unknown protocol " + quoted(list->items[i]),
                               "use http, tls or quic here" +
                                   std::string(bittorrent ? "; match bittorrent with a \"protocol\" rule" : ""));
      } else if (!*known) {
        list->places[i].refuse("UNSUPPORTED", "fakedns is not supported", "use http, tls or quic here");
      }
    }
  }
  fields.boolean("metadataOnly");
  fields.boolean("routeOnly");
  for (const auto key : {"domainsExcluded", "ipsExcluded"}) {
    if (const auto list = fields.find(key)) read_string_list(*list);
  }
  if (enabled) section.refuse("UNSUPPORTED", "sniffing is not built yet", "write \"enabled\": false");
  return enabled;
}

}  // namespace ebb::config
