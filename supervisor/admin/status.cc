#include "supervisor/admin/status.h"

#include <simdjson.h>

#include <algorithm>
#include <array>

#include "common/base/json_writer.h"

namespace ebb::supervisor::admin {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

std::string_view role_name(const Child& child) {
  if (child.supervises()) return "supervisor";
  return child.role == ipc::Role::broker ? "broker" : "worker";
}

/// What one child said, as far as it has the expected shape.
struct Figures {
  bool answered = false;
  std::int64_t connections = 0;
  std::string counts, flows, udp_sockets;     // an object as JSON, or nothing
  std::vector<std::string> portals, bridges;  // the same
};

void take_list(const object& from, const char* key, std::vector<std::string>& into) {
  array list;
  if (from[key].get_array().get(list) != simdjson::SUCCESS) return;
  for (const element one : list) into.push_back(simdjson::minify(one));
}

std::string object_in(const object& from, const char* key) {
  object found;
  return from[key].get_object().get(found) == simdjson::SUCCESS ? simdjson::minify(found) : std::string();
}

Figures figures_of(const ChildAnswer& answer) {
  Figures figures;
  figures.connections = answer.child.connections;
  simdjson::dom::parser parser;
  object said;
  if (!answer.json || parser.parse(*answer.json).get_object().get(said) != simdjson::SUCCESS) return figures;
  figures.answered = true;
  std::int64_t connections = 0;
  if (said["connections"].get_int64().get(connections) == simdjson::SUCCESS) figures.connections = connections;
  figures.counts = object_in(said, "counts");
  figures.flows = object_in(said, "flows");
  figures.udp_sockets = object_in(said, "udp_sockets");
  take_list(said, "portals", figures.portals);
  take_list(said, "bridges", figures.bridges);
  return figures;
}

template <class List>
void write_reverse(JsonWriter& out, std::string_view key, const List& configured, const std::vector<std::string>& told,
                   bool answered) {
  out.key(key).array();
  for (const auto& one : told) out.raw(one);
  if (!answered) {
    for (const auto& one : configured) {
      out.object().key("tag").text(one.tag).key("domain").text(one.domain).key("dialect").text("unknown");
      out.key("answered").boolean(false).key("tunnels").array().end().end();
    }
  }
  out.end();
}

}  // namespace

std::string status_json(const StatusInput& input) {
  JsonWriter out;
  out.object().key("generation").number(static_cast<std::int64_t>(input.generation));
  out.key("reload").object().key("step").text(input.reload_step).key("last").text(input.last_reload).end();
  out.key("processes").array();
  out.object().key("role").text("supervisor").key("name").text("supervisor").key("pid").number(input.pid);
  out.key("gen").number(static_cast<std::int64_t>(input.generation)).key("state").text(input.phase);
  out.key("connections").number(0).key("answered").boolean(true).end();
  Figures all;
  for (const auto& answer : input.children) {
    const Child& child = answer.child;
    const Figures figures = figures_of(answer);
    out.object().key("role").text(role_name(child)).key("name").text(child.name()).key("pid").number(child.pid);
    out.key("gen").number(static_cast<std::int64_t>(child.gen)).key("state").text(name_of(child.state));
    out.key("connections").number(figures.connections).key("answered").boolean(figures.answered);
    if (!figures.counts.empty()) out.key("counts").raw(figures.counts);
    if (!figures.flows.empty()) out.key("flows").raw(figures.flows);
    if (!figures.udp_sockets.empty()) out.key("udp_sockets").raw(figures.udp_sockets);
    out.end();
    if (child.role != ipc::Role::broker) continue;
    all.answered = all.answered || figures.answered;
    all.portals.insert(all.portals.end(), figures.portals.begin(), figures.portals.end());
    all.bridges.insert(all.bridges.end(), figures.bridges.begin(), figures.bridges.end());
  }
  out.end();
  if (input.replays) {
    out.key("replays").object().key("fresh").number(static_cast<std::int64_t>(input.replays->fresh));
    out.key("refused").number(static_cast<std::int64_t>(input.replays->replays));
    out.key("full").number(static_cast<std::int64_t>(input.replays->full)).end();
  }
  out.key("listeners").array();
  for (const auto& listener : *input.listeners) {
    out.object().key("address").text(listener.address.text()).key("tag").text(listener.tag);
    out.key("inbound").number(listener.inbound).end();
  }
  out.end();
  write_reverse(out, "portals", input.config->portals, all.portals, all.answered);
  write_reverse(out, "bridges", input.config->bridges, all.bridges, all.answered);
  out.end();
  return out.str();
}

// ---- the client's side ------------------------------------------------------------------------

namespace {

/// Rows of cells, printed with columns as wide as they need.
class Table {
 public:
  explicit Table(std::vector<std::string> head) { rows_.push_back(std::move(head)); }
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.size() == 1; }
  std::string text() const {
    std::vector<std::size_t> widths;
    for (const auto& row : rows_) {
      widths.resize(std::max(widths.size(), row.size()));
      for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    std::string out;
    for (const auto& row : rows_) {
      std::string line = "  ";
      for (std::size_t i = 0; i < row.size(); ++i) line += row[i] + std::string(widths[i] - row[i].size() + 2, ' ');
      line.resize(line.find_last_not_of(' ') + 1);
      out += line + "\n";
    }
    return out;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::string text_of(const object& from, const char* key) {
  std::string_view text;
  if (from[key].get_string().get(text) == simdjson::SUCCESS) {
    // A peer's bytes may be in there: nothing that moves a terminal's cursor.
    std::string clean(text);
    std::ranges::replace_if(clean, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }, '?');
    return clean;
  }
  std::int64_t number = 0;
  if (from[key].get_int64().get(number) == simdjson::SUCCESS) return std::to_string(number);
  return "-";
}

double number_of(const object& from, const char* key) {
  double number = 0;
  [[maybe_unused]] const auto error = from[key].get_double().get(number);
  return number;
}

std::string duration(double seconds) {
  const auto whole = static_cast<std::int64_t>(seconds);
  if (whole < 60) return std::to_string(whole) + "s";
  if (whole < 3600) return std::to_string(whole / 60) + "m" + std::to_string(whole % 60) + "s";
  if (whole < 86400) return std::to_string(whole / 3600) + "h" + std::to_string(whole / 60 % 60) + "m";
  return std::to_string(whole / 86400) + "d" + std::to_string(whole / 3600 % 24) + "h";
}

std::string size(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < kUnits.size(); ++unit) bytes /= 1024;
  std::string text = std::to_string(bytes);
  text.resize(text.find('.') + (unit == 0 ? 0 : 2));
  return text + " " + kUnits[unit];
}

/// What slow consumers hold while they keep new streams away; "no" otherwise.
std::string congestion(const object& tunnel) {
  bool congested = false;
  [[maybe_unused]] const auto error = tunnel["congested"].get_bool().get(congested);
  return congested ? size(number_of(tunnel, "held")) : "no";
}

/// Who serves a portal, where it is more than one or something is wrong with it.
std::string pool_text(const object& portal) {
  array bridges;
  if (portal["bridges"].get_array().get(bridges) != simdjson::SUCCESS) return "";
  Table table({"BRIDGE", "ADDRESS", "WEIGHT", "TUNNELS", "STREAMS", "VISITORS", "SHARE", "HEALTH"});
  bool failing = false;
  for (const element each : bridges) {
    object bridge;
    if (each.get_object().get(bridge) != simdjson::SUCCESS) continue;
    const std::string name = text_of(bridge, "user");
    std::string health = text_of(bridge, "health");
    if (health == "failing") {
      failing = true;
      const std::string targets = text_of(bridge, "failing_targets");
      health += " for " + targets + (targets == "1" ? " target" : " targets") + ", next trial in " +
                duration(number_of(bridge, "next_trial_s"));
    }
    table.row({name.empty() ? "-" : name, text_of(bridge, "address"), text_of(bridge, "weight"),
               text_of(bridge, "tunnels"), text_of(bridge, "streams"), text_of(bridge, "visitors"),
               text_of(bridge, "share_percent") + "%", health});
  }
  return bridges.size() > 1 || failing ? table.text() + "\n" : "";
}

/// What processes say of their flows, of those that had any.
std::string flows_text(const array& processes) {
  Table table({"NAME", "LIVE", "STARTED", "DATAGRAMS", "DROPPED", "DISPLACED", "IDLE"});
  for (const element one : processes) {
    object process, flows, sockets;
    if (one.get_object().get(process) != simdjson::SUCCESS) continue;
    if (process["flows"].get_object().get(flows) != simdjson::SUCCESS) continue;
    double dropped = number_of(flows, "dropped");
    if (process["udp_sockets"].get_object().get(sockets) == simdjson::SUCCESS) dropped += number_of(sockets, "dropped");
    if (number_of(flows, "started") == 0 && dropped == 0) continue;
    table.row({text_of(process, "name"), text_of(flows, "live"), text_of(flows, "started"), text_of(flows, "datagrams"),
               std::to_string(static_cast<std::int64_t>(dropped)), text_of(flows, "displaced"),
               text_of(flows, "idle")});
  }
  return table.empty() ? "" : "\nflows of datagrams\n" + table.text();
}

void show_reverse(std::string& out, const object& result, const char* key, const char* word, const char* none) {
  array list;
  if (result[key].get_array().get(list) != simdjson::SUCCESS) return;
  for (const element one : list) {
    object entry;
    if (one.get_object().get(entry) != simdjson::SUCCESS) continue;
    out += std::string("\n") + word + " \"" + text_of(entry, "tag") + "\"  domain " + text_of(entry, "domain") +
           "  dialect " + text_of(entry, "dialect");
    if (const std::string policy = text_of(entry, "policy"); policy != "-") out += "  policy " + policy;
    out += "\n" + pool_text(entry);
    Table table({"ID", "PEER", "STATE", "AGE", "STREAMS", "IN", "OUT", "CONGESTED", "VIOLATIONS"});
    array tunnels;
    if (entry["tunnels"].get_array().get(tunnels) == simdjson::SUCCESS) {
      for (const element each : tunnels) {
        object tunnel;
        if (each.get_object().get(tunnel) != simdjson::SUCCESS) continue;
        table.row({text_of(tunnel, "id"), text_of(tunnel, "peer"), text_of(tunnel, "state"),
                   duration(number_of(tunnel, "age_s")), text_of(tunnel, "streams"),
                   size(number_of(tunnel, "bytes_in")), size(number_of(tunnel, "bytes_out")), congestion(tunnel),
                   text_of(tunnel, "violations")});
      }
    }
    bool answered = true;
    [[maybe_unused]] const auto error = entry["answered"].get_bool().get(answered);
    if (!answered) {
      out += "  the broker did not answer\n";
    } else if (table.empty()) {
      const std::string failure = text_of(entry, "last_failure");
      out += std::string("  ") + none + (failure.size() > 1 ? ": " + failure : "") + "\n";
    } else {
      out += table.text();
    }
  }
}

}  // namespace

std::string removal_text(std::string_view result_json) {
  simdjson::dom::parser parser;
  object result;
  if (parser.parse(result_json.data(), result_json.size()).get_object().get(result) != simdjson::SUCCESS) return "";
  const auto count = [&](const char* key, const char* word) {
    const std::string number = text_of(result, key);
    return number + " " + word + (number == "1" ? "" : "s");
  };
  return count("tunnels", "tunnel") + ", " + count("visitors", "visitor");
}

Result<std::string> status_text(std::string_view result_json) {
  simdjson::dom::parser parser;
  object result;
  if (parser.parse(result_json.data(), result_json.size()).get_object().get(result) != simdjson::SUCCESS) {
    return std::unexpected(Error{Errc::protocol, "the status is not a JSON object", {}});
  }
  std::string out = "generation " + text_of(result, "generation") + "\n";
  object reload;
  if (result["reload"].get_object().get(reload) == simdjson::SUCCESS) {
    const std::string step = text_of(reload, "step");
    const std::string last = text_of(reload, "last");
    if (step != "idle") out += "reload " + step + "\n";
    if (!last.empty() && last != "ok" && last != "-") out += "last reload failed: " + last + "\n";
  }
  out += "\nprocesses\n";
  std::string flows;
  Table processes({"NAME", "PID", "STATE", "CONNECTIONS"});
  array list;
  if (result["processes"].get_array().get(list) == simdjson::SUCCESS) {
    for (const element one : list) {
      object process;
      if (one.get_object().get(process) != simdjson::SUCCESS) continue;
      bool answered = true;
      [[maybe_unused]] const auto error = process["answered"].get_bool().get(answered);
      processes.row({text_of(process, "name"), text_of(process, "pid"),
                     text_of(process, "state") + (answered ? "" : " (no answer)"), text_of(process, "connections")});
    }
    flows = flows_text(list);
  }
  out += processes.text() + flows;
  Table listeners({"ADDRESS", "INBOUND"});
  if (result["listeners"].get_array().get(list) == simdjson::SUCCESS) {
    for (const element one : list) {
      object listener;
      if (one.get_object().get(listener) != simdjson::SUCCESS) continue;
      const std::string tag = text_of(listener, "tag");
      listeners.row({text_of(listener, "address"), tag.empty() ? "#" + text_of(listener, "inbound") : tag});
    }
  }
  if (!listeners.empty()) out += "\nlisteners\n" + listeners.text();
  show_reverse(out, result, "portals", "portal", "no tunnel: no bridge is connected");
  show_reverse(out, result, "bridges", "bridge", "no tunnel: the portal is not reached");
  return out;
}

}  // namespace ebb::supervisor::admin
