#include "common/config/merge.h"

#include <algorithm>

#include "common/config/text.h"

namespace ebb::config {
namespace {

constexpr std::string_view kSections[] = {"log",       "routing", "dns",   "policy", "reverse",
                                          "transport", "api",     "stats", "ebbgate"};

/// The element's tag for merging: exact text; absent and wrong kinds count as empty.
std::string tag_of(const Value& element) {
  std::string tag;
  if (element.kind() != Kind::object) return tag;
  for (const Node& item : element.node().items) {
    if (same_word(item.key, "tag") && item.kind == Kind::string) tag = item.text;
  }
  return tag;
}

void refuse_v5_merging(const Value& element) {
  if (element.kind() != Kind::object) return;
  for (const Node& item : element.node().items) {
    if (item.key != "_tag" && item.key != "_priority") continue;
    element.report().refuse("UNSUPPORTED", {item.file, item.key_offset, element.path() + "." + std::string(item.key)},
                            "v5-style merging of files is not supported", "merge by \"tag\", or use one file");
  }
}

class Lists {
 public:
  explicit Lists(bool several_files) : several_files_(several_files) {}

  std::vector<Value> legacy, detour, modern;

  void add(std::vector<Value> incoming, bool first, bool outbounds, bool tail) {
    if (several_files_) {
      for (const auto& element : incoming) refuse_v5_merging(element);
    }
    if (first) {
      modern = std::move(incoming);
      return;
    }
    if (incoming.size() > 1) {
      incoming.front().warn("COMPAT",
                            "several elements in a later file are merged one by one; V2Ray 4.x replaces the list",
                            "put one element into each file");
    }
    std::size_t front = 0;
    for (const auto& element : incoming) {
      const std::string tag = tag_of(element);
      const auto same = std::find_if(modern.begin(), modern.end(), [&](const Value& v) { return tag_of(v) == tag; });
      if (same != modern.end()) {
        *same = element;
      } else if (outbounds && !tail) {
        modern.insert(modern.begin() + static_cast<std::ptrdiff_t>(front++), element);
      } else {
        modern.push_back(element);
      }
    }
  }

  std::vector<Value> joined() {
    std::vector<Value> out = std::move(legacy);
    out.insert(out.end(), detour.begin(), detour.end());
    out.insert(out.end(), modern.begin(), modern.end());
    return out;
  }

 private:
  bool several_files_;
};

void read_lists(Fields& root, Lists& lists, bool first, bool outbounds, bool tail) {
  const std::string one = outbounds ? "outbound" : "inbound";
  if (const auto value = root.find(outbounds ? "outbound" : "inbound")) lists.legacy = {*value};
  if (const auto value = root.find(outbounds ? "outboundDetour" : "inboundDetour"))
    lists.detour = value->elements("an array of " + one + " objects");
  const auto value = root.find(outbounds ? "outbounds" : "inbounds");
  if (!value) return;
  if (value->kind() == Kind::object) {
    value->refuse("TYPE", "expected an array of " + one + " objects, found an object",
                  "wrap it in [ ] (or use the legacy key \"" + one + "\")");
    return;
  }
  lists.add(value->elements("an array of " + one + " objects"), first || lists.modern.empty(), outbounds, tail);
}

void read_other_keys(Fields& root) {
  root.no_effect({"observatory", "burstObservatory", "multiObservatory"}, "has no effect: balancers are not built yet");
  root.no_effect({"fakedns", "fakeDns", "version", "metrics", "geodata"});
  for (const auto key : {"browserForwarder", "env", "services"}) {
    root.unsupported(key, quoted(key) + " is not supported", "remove it");
  }
  for (const auto key : {"router", "@type"}) {
    if (const auto value = root.find(key)) {
      value->refuse("UNSUPPORTED", "this is a v5-native layout",
                    "use the v4-style layout (inbounds, outbounds, routing)");
    }
  }
}

}  // namespace

Sections merge(const std::vector<Value>& roots, const std::vector<SourceFile>& files) {
  Sections out;
  Lists inbounds(roots.size() > 1), outbounds(roots.size() > 1);
  for (std::size_t i = 0; i < roots.size(); ++i) {
    Fields root(roots[i], "an object at the top level");
    const std::string& path = files[roots[i].node().file].name;
    const bool tail = lower(path.substr(path.rfind('/') + 1)).find("tail") != std::string::npos;
    for (const auto name : kSections) {
      if (const auto value = root.find(name)) out.named.insert_or_assign(std::string(name), *value);
    }
    if (const auto value = root.find("port")) out.legacy_port = *value;
    read_lists(root, inbounds, i == 0, false, tail);
    read_lists(root, outbounds, i == 0, true, tail);
    read_other_keys(root);
  }
  out.inbounds = inbounds.joined();
  out.outbounds = outbounds.joined();
  return out;
}

}  // namespace ebb::config
