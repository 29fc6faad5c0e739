// outbounds[]. spec/config.md 9.
#include "common/config/draft.h"
#include "common/config/text.h"

namespace ebb::config {
namespace {

enum class Protocol : std::uint8_t { unknown, freedom, vmess, blackhole, unbuilt_proxy, unbuilt_other, inbound_only };
constexpr std::pair<std::string_view, Protocol> kProtocols[] = {
    {"freedom", Protocol::freedom},
    {"direct", Protocol::freedom},
    {"vmess", Protocol::vmess},
    {"blackhole", Protocol::blackhole},
    {"block", Protocol::blackhole},
    {"vless", Protocol::unbuilt_proxy},
    {"trojan", Protocol::unbuilt_proxy},
    {"shadowsocks", Protocol::unbuilt_proxy},
    {"socks", Protocol::unbuilt_proxy},
    {"http", Protocol::unbuilt_proxy},
    {"mtproto", Protocol::unbuilt_other},
    {"hysteria", Protocol::unbuilt_proxy},
    {"hysteria2", Protocol::unbuilt_proxy},
    {"wireguard", Protocol::unbuilt_proxy},
    {"dns", Protocol::unbuilt_other},
    {"loopback", Protocol::unbuilt_other},
    {"dokodemo-door", Protocol::inbound_only},
    {"tunnel", Protocol::inbound_only},
    {"mixed", Protocol::inbound_only},
    {"tun", Protocol::inbound_only},
};

/// "host:port" as Go splits it: IPv6 in brackets, both halves may be empty. False when it is not that.
bool split_host_port(std::string_view text, std::string_view& host, std::string_view& port) {
  const auto colon = text.rfind(':');
  if (colon == text.npos) return false;
  host = text.substr(0, colon);
  port = text.substr(colon + 1);
  if (host.starts_with('[')) {
    if (!host.ends_with(']')) return false;
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != host.npos) {
    return false;
  }
  return host.find_first_of("[]") == host.npos;
}

std::optional<Redirect> read_redirect(const Value& value) {
  const auto text = value.string();
  if (!text || text->empty()) return std::nullopt;
  std::string_view host, port;
  const bool split = split_host_port(*text, host, port) && !port.empty() && port.size() <= 5 &&
                     port.find_first_not_of("0123456789") == port.npos;
  if (!split || std::stoul(std::string(port)) > 65535) {
    value.refuse("VALUE", "redirect needs host:port",
                 "write \"127.0.0.1:80\"; \":80\" keeps the host, \"host:0\" keeps the port");
    return std::nullopt;
  }
  Redirect out;
  out.port = static_cast<std::uint16_t>(std::stoul(std::string(port)));
  const Host parsed = host_of(host);
  if (const auto* name = std::get_if<std::string>(&parsed)) {
    if (name->size() > 255) {
      value.refuse("VALUE", "redirect host is longer than 255 bytes");
      return std::nullopt;
    }
    if (!name->empty()) out.host = parsed;
  } else if (std::get<IpAddress>(parsed) != IpAddress{}) {
    out.host = parsed;  // 0.0.0.0 keeps the host, as an absent one does
  }
  return out;
}

void refuse_unbuilt_strategy(const Value& value, std::string_view what) {
  const auto word = value.string();
  if (!word || word->empty() || same_word(*word, "AsIs")) return;
  const std::string folded = lower(*word);
  if (folded.starts_with("use") || folded.starts_with("force")) {
    value.refuse("UNSUPPORTED", std::string(what) + " " + quoted(*word) + " is not built yet", "write \"AsIs\"");
  } else {
    value.refuse("VALUE", "unknown " + std::string(what) + " " + quoted(*word),
                 did_you_mean(*word, {"AsIs", "UseIP", "UseIPv4", "UseIPv6"}));
  }
}

void read_freedom(const Value& settings, OutboundDraft& draft) {
  Fields fields(settings);
  if (!fields.valid()) return;
  FreedomOutbound out;
  if (const auto redirect = fields.find("redirect")) out.redirect = read_redirect(*redirect);
  if (const auto strategy = fields.find("domainStrategy")) refuse_unbuilt_strategy(*strategy, "domainStrategy");
  out.level = fields.number<std::uint32_t>("userLevel").value_or(0);
  fields.no_effect({"timeout"}, "has no effect; use policy connIdle");
  fields.no_effect({"fragment", "noises", "ipsBlocked"});
  if (const auto version = fields.number<std::uint8_t>("proxyProtocol", 0, 2); version && *version != 0) {
    fields.find("proxyProtocol")
        ->refuse("UNSUPPORTED", "freedom's proxyProtocol is not built yet",
                 "for streams out of a bridge use ebbgate.bridges.TAG.proxyProtocol");
  }
  fields.unsupported("finalRules", "finalRules is not supported");
  draft.outbound.protocol = std::move(out);
  draft.usable = true;
}

void read_blackhole(const Value& settings, OutboundDraft& draft) {
  Fields fields(settings);
  if (!fields.valid()) return;
  BlackholeOutbound out;
  if (const auto response = fields.find("response")) {
    Fields inner(*response);
    if (const auto type = inner.find("type")) {
      const auto word = type->string();
      out.http_response = word && same_word(*word, "http");
      if (word && !out.http_response && !same_word(*word, "none")) {
        type->refuse("VALUE", "unknown response type " + quoted(*word), "write \"none\" or \"http\"");
      }
    }
  }
  draft.outbound.protocol = out;
  draft.usable = true;
}

/// An array of nothing, or of nulls.
bool is_empty_list(const Value& value) { return value.kind() == Kind::array && value.elements().empty(); }

/// Address and port of a server, or of Xray's simplified settings.
bool read_server_address(Fields& fields, VmessServer& server) {
  const auto address = fields.find("address");
  const auto port = fields.find("port");
  const auto missing = [&](std::string_view key) {
    fields.self().report().refuse("MISSING", fields.self().missing(key), "server has no \"" + std::string(key) + "\"");
  };
  if (!address) missing("address");
  if (!port) missing("port");
  const auto host = address ? read_address(*address) : std::nullopt;
  if (host) server.address = *host;
  if (port && port->kind() == Kind::string) {
    port->refuse("TYPE", "expected a number, found a string",
                 "remove the quotes (a string is fine for inbound ports only)");
    return false;
  }
  const auto number = port ? port->number<std::uint16_t>() : std::nullopt;
  if (number && *number == 0) port->refuse("VALUE", "port 0 cannot be dialled");
  server.port = number.value_or(0);
  return host.has_value() && server.port != 0;
}

std::optional<VmessServer> read_server(const Value& element) {
  Fields fields(element, "a server object");
  if (!fields.valid()) return std::nullopt;
  VmessServer out;
  const bool addressed = read_server_address(fields, out);
  const auto users = fields.find("users");
  if (users) out.users = read_vmess_users(*users, Side::outbound);
  if (!users || is_empty_list(*users)) {
    element.report().refuse("MISSING", users ? users->place() : element.missing("users"), "server has no \"users\"");
  }
  return addressed && !out.users.empty() ? std::optional(std::move(out)) : std::nullopt;
}

void read_vmess(const Value& settings, OutboundDraft& draft) {
  Fields fields(settings);
  if (!fields.valid()) return;
  VmessOutbound out;
  const auto vnext = fields.find("vnext");
  if (vnext) {
    for (const auto& element : vnext->elements("an array of server objects")) {
      if (auto server = read_server(element)) out.servers.push_back(std::move(*server));
    }
  } else if (fields.find("address")) {  // Xray's simplified shape
    VmessServer server;
    const bool addressed = read_server_address(fields, server);
    if (auto user = read_vmess_user(fields, Side::outbound); user && addressed) {
      server.users.push_back(std::move(*user));
      out.servers.push_back(std::move(server));
    }
    draft.outbound.protocol = std::move(out);
    draft.usable = true;
    return;
  }
  fields.known({"servers"});
  if (!vnext || is_empty_list(*vnext)) {
    settings.report().refuse("MISSING", vnext ? vnext->place() : settings.missing("vnext"),
                             "vmess outbound needs \"vnext\" with at least one server",
                             "\"servers\" is for socks, http, shadowsocks and trojan");
  }
  draft.outbound.protocol = std::move(out);
  draft.usable = true;
}

void read_protocol(Fields& fields, OutboundDraft& draft) {
  const auto protocol = fields.find("protocol");
  if (!protocol) {
    fields.known({"settings"});
    draft.self.report().refuse("MISSING", draft.self.missing("protocol"), "outbound has no \"protocol\"");
    return;
  }
  const auto word = protocol->string();
  const auto known = word_in(word.value_or(""), kProtocols).value_or(Protocol::unknown);
  draft.protocol = word.value_or("");
  if (known == Protocol::freedom) return read_freedom(fields.object_or_empty("settings"), draft);
  if (known == Protocol::blackhole) {
    draft.leads = Leads::nowhere;
    return read_blackhole(fields.object_or_empty("settings"), draft);
  }
  if (known == Protocol::vmess) {
    draft.leads = Leads::proxy;
    return read_vmess(fields.object_or_empty("settings"), draft);
  }
  fields.known({"settings"});
  if (!word) return;
  if (known == Protocol::inbound_only) {
    protocol->refuse("UNKNOWN_PROTOCOL", quoted(*word) + " is an inbound protocol",
                     "use \"freedom\" with settings.redirect");
  } else if (known != Protocol::unknown) {
    draft.leads = known == Protocol::unbuilt_proxy ? Leads::proxy : Leads::direct;
    protocol->refuse("UNSUPPORTED", "outbound protocol " + quoted(*word) + " is not built yet",
                     "freedom, vmess and blackhole are");
  } else {
    protocol->refuse(
        "UNKNOWN_PROTOCOL", "unknown outbound protocol " + quoted(*word),
        did_you_mean(*word, {"freedom", "vmess", "blackhole", "vless", "trojan", "shadowsocks", "socks", "http"}));
  }
}

void read_send_through(const Value& value, OutboundDraft& draft) {
  const auto text = value.string();
  if (!text) return;
  const Host host = host_of(*text);
  if (const auto* ip = std::get_if<IpAddress>(&host)) {
    draft.outbound.send_through = *ip;
  } else if (*text == "origin" || *text == "srcip" || text->find('/') != text->npos) {
    value.refuse("UNSUPPORTED", "sendThrough " + quoted(*text) + " is not supported",
                 "write an IP address of this machine");
  } else {
    value.refuse("VALUE", "sendThrough must be an IP address, found " + quoted(*text));
  }
}

void read_proxy_settings(const Value& value) {
  if (!value.expect(Kind::object, "an object")) return;
  if (!is_off(value.node())) {
    value.refuse("UNSUPPORTED", "proxySettings (one outbound through another) is not built yet");
  }
}

}  // namespace

std::optional<Place> read_mux(const Value& section) {
  Fields fields(section);
  if (!fields.valid()) return std::nullopt;
  const auto enabled_field = fields.find("enabled");
  const bool enabled = enabled_field && enabled_field->boolean().value_or(false);
  const auto concurrency = fields.number<std::int16_t>("concurrency").value_or(0);
  if (concurrency > 1024) {
    fields.find("concurrency")
        ->refuse("VALUE", "concurrency must be 1-1024 (0 = default 8, negative = off)",
                 "and mux is not needed for a reverse tunnel");
  }
  if (enabled) {
    fields.unsupported("xudpConcurrency", "XUDP is not supported");
    fields.unsupported("xudpProxyUDP443", "XUDP is not supported");
  } else {
    fields.no_effect({"xudpConcurrency", "xudpProxyUDP443"});
  }
  if (!enabled || concurrency < 0) return std::nullopt;
  return Place{section.node().file, enabled_field->node().offset, section.path()};
}

void read_outbound(const Value& element, Draft& draft) {
  OutboundDraft& out = draft.outbounds.emplace_back(OutboundDraft{{}, element, {}, {}, {}, Leads::direct, false});
  Fields fields(element, "an outbound object");
  if (!fields.valid()) return;
  out.tag = fields.find("tag");
  if (out.tag) out.outbound.tag = out.tag->string().value_or("");
  read_protocol(fields, out);
  if (const auto stream = fields.find("streamSettings")) read_stream(*stream, Side::outbound);
  if (const auto address = fields.find("sendThrough")) read_send_through(*address, out);
  if (const auto proxy = fields.find("proxySettings")) read_proxy_settings(*proxy);
  if (const auto mux = fields.find("mux")) out.mux = read_mux(*mux);
  if (const auto strategy = fields.find_any({"domainStrategy", "targetStrategy"})) {
    refuse_unbuilt_strategy(*strategy, "domainStrategy");
  }
}

}  // namespace ebb::config
