// inbounds[]. spec/config.md 8.
#include <algorithm>

#include "common/config/draft.h"
#include "common/config/text.h"

namespace ebb::config {
namespace {

enum class Protocol : std::uint8_t { unknown, dokodemo, vmess, unbuilt, outbound_only };
constexpr std::pair<std::string_view, Protocol> kProtocols[] = {
    {"dokodemo-door", Protocol::dokodemo},
    {"tunnel", Protocol::dokodemo},
    {"vmess", Protocol::vmess},
    {"socks", Protocol::unbuilt},
    {"mixed", Protocol::unbuilt},
    {"http", Protocol::unbuilt},
    {"vless", Protocol::unbuilt},
    {"trojan", Protocol::unbuilt},
    {"shadowsocks", Protocol::unbuilt},
    {"mtproto", Protocol::unbuilt},
    {"hysteria", Protocol::unbuilt},
    {"hysteria2", Protocol::unbuilt},
    {"wireguard", Protocol::unbuilt},
    {"tun", Protocol::unbuilt},
    {"freedom", Protocol::outbound_only},
    {"blackhole", Protocol::outbound_only},
    {"loopback", Protocol::outbound_only},
    {"dns", Protocol::outbound_only},
};

/// `inbound "external"`, or its path without a tag.
std::string named(const Value& element, const std::optional<Value>& tag) {
  if (tag && tag->kind() == Kind::string && !tag->node().text.empty()) return "inbound " + quoted(tag->node().text);
  return "inbound " + element.path().substr(2);
}

void read_dokodemo(Fields& inbound, InboundDraft& draft) {
  Fields fields(inbound.object_or_empty("settings"));
  if (!fields.valid()) return;
  DokodemoInbound out;
  const auto address = fields.find_any({"address", "rewriteAddress"});
  const auto follow = fields.find("followRedirect");
  draft.any_target = follow && !is_off(follow->node());
  fields.unsupported_flag("followRedirect", "followRedirect is not built yet");
  fields.unsupported("portMap", "portMap is not supported", "use several inbounds");
  fields.no_effect({"timeout"}, "has no effect; use policy connIdle");
  out.level = fields.number<std::uint32_t>("userLevel").value_or(0);
  if (const auto networks = fields.find_any({"network", "allowedNetwork"})) {
    if (const auto list = read_networks(*networks)) {
      out.tcp = std::ranges::find(*list, Network::tcp) != list->end();
      out.udp = std::ranges::find(*list, Network::udp) != list->end();
      if (list->empty()) networks->refuse("VALUE", "no network is named", "use tcp, udp or \"tcp,udp\"");
    }
  }
  if (address) {
    if (auto host = read_address(*address)) out.address = *host;
  } else if (!draft.any_target) {
    draft.self.report().refuse(
        "MISSING", fields.self().missing("address"),
        "dokodemo-door has no destination address and followRedirect is off; every connection would fail",
        "add \"address\": \"127.0.0.1\"");
  }
  const auto port = fields.find_any({"port", "rewritePort"});
  out.port = port ? port->number<std::uint16_t>().value_or(0) : 0;
  const bool readable = !port || port->kind() == Kind::number;
  if (out.port == 0 && readable && !draft.inbound.ports.empty()) {
    const Place place = port ? port->place() : fields.self().missing("port");
    const auto& ports = draft.inbound.ports;
    if (ports.size() > 1 || ports[0].from != ports[0].to || ports[0].from == 0) {
      draft.self.report().refuse("MISSING", place,
                                 "the destination port is needed: it cannot be taken from the listening ports",
                                 "add settings.port");
    } else {
      out.port = ports[0].from;
      draft.self.report().warn("VALUE", place,
                               "no destination port; the listening port " + std::to_string(out.port) + " is used",
                               "settings.port is the destination, not the listening port");
    }
  }
  draft.inbound.protocol = out;
  draft.usable = true;
}

void read_vmess(Fields& inbound, InboundDraft& draft) {
  Fields fields(inbound.object_or_empty("settings"));
  if (!fields.valid()) return;
  VmessInbound out;
  if (const auto clients = fields.find_any({"clients", "users"})) out.users = read_vmess_users(*clients, Side::inbound);
  if (out.users.empty()) {
    fields.self().report().warn("VALUE", fields.self().missing("clients"), "there are no clients: nobody can connect");
  }
  out.refuse_insecure = fields.boolean("disableInsecureEncryption").value_or(false);
  fields.no_effect({"default"}, "has no effect without detour");
  fields.unsupported("detour", "VMess dynamic port hand-over (detour) is not supported");
  if (const auto features = fields.find("features")) {
    Fields inner(*features);
    inner.unsupported("detour", "VMess dynamic port hand-over (detour) is not supported");
  }
  draft.inbound.protocol = std::move(out);
  draft.usable = true;
}

void read_listen(Fields& fields, InboundDraft& draft, bool& unix_socket) {
  const auto listen = fields.find("listen");
  const auto text = listen ? listen->string() : std::nullopt;
  if (!text) return;
  if (text->starts_with('/') || text->starts_with('@')) {
    unix_socket = true;
    listen->refuse("UNSUPPORTED", "listening on a unix socket is not built yet", "use an IP address and a port");
    return;
  }
  if (*text == "localhost") {
    draft.inbound.listen = IpAddress::from_v4({127, 0, 0, 1});
    return;
  }
  const Host host = host_of(*text);
  if (const auto* ip = std::get_if<IpAddress>(&host)) {
    draft.inbound.listen = *ip;
  } else if (text->empty()) {
    listen->refuse("VALUE", "listen address is empty", "remove it, or write \"0.0.0.0\"");
  } else {
    listen->refuse("VALUE", "cannot listen on a host name", "use an IP address, or an absolute path for a unix socket");
  }
}

void read_allocate(const Value& value) {
  Fields fields(value);
  fields.known({"concurrency", "refresh"});
  const auto strategy = fields.find("strategy");
  const auto word = strategy ? strategy->string() : std::nullopt;
  if (!word || same_word(*word, "always")) return;
  if (same_word(*word, "random") || same_word(*word, "external")) {
    strategy->refuse("UNSUPPORTED", "allocate strategy " + quoted(*word) + " is not supported", "remove \"allocate\"");
  } else {
    strategy->refuse("VALUE", "unknown allocate strategy " + quoted(*word), "write \"always\"");
  }
}

void read_protocol(Fields& fields, InboundDraft& draft) {
  const auto protocol = fields.find("protocol");
  if (!protocol) {
    fields.known({"settings"});
    draft.self.report().refuse("MISSING", draft.self.missing("protocol"),
                               named(draft.self, draft.tag) + " has no \"protocol\"");
    return;
  }
  const auto word = protocol->string();
  const auto known = word_in(word.value_or(""), kProtocols).value_or(Protocol::unknown);
  if (known == Protocol::dokodemo) return read_dokodemo(fields, draft);
  if (known == Protocol::vmess) return read_vmess(fields, draft);
  fields.known({"settings"});
  if (!word) return;
  if (known == Protocol::unbuilt) {
    protocol->refuse("UNSUPPORTED", "inbound protocol " + quoted(*word) + " is not built yet",
                     "dokodemo-door and vmess are");
  } else if (known == Protocol::outbound_only) {
    protocol->refuse("UNKNOWN_PROTOCOL", quoted(*word) + " is an outbound protocol", "move it to outbounds");
  } else {
    constexpr std::string_view kNames[] = {"dokodemo-door", "vmess", "socks", "http", "vless", "trojan", "shadowsocks"};
    // "dokodemo" is more than two edits away and still the commonest slip.
    protocol->refuse(
        "UNKNOWN_PROTOCOL", "unknown inbound protocol " + quoted(*word),
        lower(*word).starts_with("dokodemo") ? "did you mean \"dokodemo-door\"?" : did_you_mean(*word, kNames));
  }
}

}  // namespace

void read_inbound(const Value& element, const std::optional<Value>& legacy_port, Draft& draft) {
  InboundDraft& out = draft.inbounds.emplace_back(InboundDraft{{}, element, {}, {}, {}, false});
  Fields fields(element, "an inbound object");
  if (!fields.valid()) return;
  out.tag = fields.find("tag");
  if (out.tag) out.inbound.tag = out.tag->string().value_or("");
  bool unix_socket = false;
  read_listen(fields, out, unix_socket);
  out.port = fields.find("port");
  if (!out.port) out.port = legacy_port;
  if (out.port) {
    if (auto ports = read_inbound_ports(*out.port)) out.inbound.ports = std::move(*ports);
    const auto& ports = out.inbound.ports;
    if (std::any_of(ports.begin(), ports.end(), [](const PortRange& r) { return r.from == 0; })) {
      out.port->warn("VALUE", "port 0 lets the kernel choose the listening port");
    }
  } else if (!unix_socket) {
    element.report().refuse("MISSING", element.missing("port"), named(element, out.tag) + " has no \"port\"",
                            "note that settings.port is the destination, not the listening port");
  }
  read_protocol(fields, out);
  if (const auto stream = fields.find("streamSettings")) out.accept_proxy = read_stream(*stream, Side::inbound);
  out.inbound.accept_proxy_protocol = out.accept_proxy.has_value();
  const auto sniffing = fields.find("sniffing");
  if (sniffing && read_sniffing(*sniffing)) out.any_target = true;
  if (const auto override_list = fields.find("domainOverride")) {
    const auto list = read_string_list(*override_list);
    if (list && !list->items.empty() && !sniffing) {
      out.any_target = true;
      override_list->refuse("UNSUPPORTED", "sniffing is not built yet", "remove \"domainOverride\"");
    }
  }
  if (const auto allocate = fields.find("allocate")) read_allocate(*allocate);
}

}  // namespace ebb::config
