#include "common/config/load.h"

#include <cstdlib>

#include "common/config/draft.h"
#include "common/config/prescan.h"
#include "common/config/text.h"
#include "common/config/tree.h"

namespace ebb::config {
namespace {

/// Text to tree. A null file is an empty object; nothing when the file cannot be used.
std::optional<Tree> parse_file(const SourceFile& file, std::uint16_t index, Report& report) {
  std::string text;
  text.reserve(file.text.size() + kTextPadding);
  text = file.text;
  const Prescan scanned = prescan(text);
  if (scanned.byte_order_mark) {
    report.warn("JSON_BOM", {index, 0, "$"}, "file starts with a UTF-8 byte order mark",
                "V2Ray refuses it; skip the mark and go on");
  }
  if (const auto& fault = scanned.fault) {
    report.refuse("JSON_SYNTAX", {index, static_cast<std::uint32_t>(fault->offset), fault->path}, fault->message,
                  fault->suggestion);
    return std::nullopt;
  }
  if (scanned.trailing) {
    report.warn("JSON_TRAILING", {index, static_cast<std::uint32_t>(*scanned.trailing), "$"},
                "content after the end of the configuration object is ignored",
                "merge it into the configuration object");
  }
  Tree empty;
  empty.root.kind = Kind::object;
  empty.root.file = index;
  if (scanned.first == 'n') return empty;
  const auto start = static_cast<std::uint32_t>(text.find_first_not_of(" \t\r\n"));
  if (scanned.first != '{') {
    report.refuse("TYPE", {index, start, "$"}, "the configuration must be an object", "write { … }");
    return std::nullopt;
  }
  Tree tree = parse_tree(std::move(text), index);
  if (tree.failed) {
    report.refuse("JSON_SYNTAX", {index, tree.failed_offset, "$"}, tree.failed_message);
    return std::nullopt;
  }
  for (const auto& duplicate : tree.duplicates) {
    report.warn("DUPLICATE_KEY", {index, duplicate.offset, duplicate.path},
                "key appears twice (first on line " + std::to_string(locate(file.text, duplicate.earlier).line) +
                    "); objects are merged member by member, otherwise the later value wins",
                "keep one");
  }
  return tree;
}

/// Sections that are known and not built: refused unless they are empty. `stats` counts by its mere presence.
void refuse_unbuilt_sections(const Sections& sections, Draft& draft) {
  for (const auto name : {"dns", "transport"}) {
    const auto* section = sections.find(name);
    if (section == nullptr || !section->expect(Kind::object, "an object") || is_off(section->node())) continue;
    section->refuse("UNSUPPORTED", "the \"" + std::string(name) + "\" section is not built yet", "remove it");
  }
  for (const auto name : {"api", "stats"}) {
    const auto* section = sections.find(name);
    if (section == nullptr || !section->expect(Kind::object, "an object")) continue;
    section->refuse("UNSUPPORTED", std::string(name) + " is not built yet", "remove it");
  }
  const auto tag_in = [&](const char* name) -> std::string {
    const auto* section = sections.find(name);
    if (section == nullptr || section->kind() != Kind::object) return {};
    for (const Node& item : section->node().items) {
      if (same_word(item.key, "tag") && item.kind == Kind::string) return std::string(item.text);
    }
    return {};
  };
  draft.api_tag = tag_in("api");
  if (const auto dns = tag_in("dns"); !dns.empty()) draft.other_in_tags.insert(dns);
}

void read_sections(const Sections& sections, Draft& draft) {
  const auto optional = [&](const char* name) {
    const auto* section = sections.find(name);
    return section == nullptr ? std::optional<Value>() : std::optional(*section);
  };
  if (const auto* log = sections.find("log")) read_log(*log, draft);
  read_policy(optional("policy"), draft);
  if (const auto* reverse = sections.find("reverse")) read_reverse(*reverse, draft);
  for (std::size_t i = 0; i < sections.inbounds.size(); ++i) {
    read_inbound(sections.inbounds[i], i == 0 ? sections.legacy_port : std::nullopt, draft);
  }
  for (const auto& element : sections.outbounds) read_outbound(element, draft);
  refuse_unbuilt_sections(sections, draft);
  if (const auto* routing = sections.find("routing")) read_routing(*routing, draft);
  if (const auto* ebbgate = sections.find("ebbgate")) read_ebbgate(*ebbgate, draft);
}

Config take(Draft&& draft) {
  Config out;
  out.log = std::move(draft.log);
  out.inbounds.reserve(draft.inbounds.size());
  out.outbounds.reserve(draft.outbounds.size());
  out.rules.reserve(draft.rules.size());
  for (auto& item : draft.inbounds) out.inbounds.push_back(std::move(item.inbound));
  for (auto& item : draft.outbounds) out.outbounds.push_back(std::move(item.outbound));
  for (auto& item : draft.portals) out.portals.push_back(std::move(item.value));
  for (auto& item : draft.bridges) out.bridges.push_back(std::move(item.value));
  for (auto& item : draft.rules) out.rules.push_back(std::move(item.rule));
  out.policy = std::move(draft.policy);
  out.settings = std::move(draft.settings);
  return out;
}

}  // namespace

Surroundings process_surroundings() {
  return {[](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  }};
}

Loaded load(std::vector<SourceFile> files, const Surroundings& surroundings, Depth depth) {
  constexpr std::size_t kMostFiles = 1000;
  Loaded out;
  Report report;
  Reading reading{report, surroundings};
  if (files.size() > kMostFiles) {
    report.refuse("FILE", {0, 0, "$"}, "more than 1000 configuration files");
    files.resize(kMostFiles);
  }
  std::deque<Tree> trees;
  std::vector<Value> roots;
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (auto tree = parse_file(files[i], static_cast<std::uint16_t>(i), report)) {
      roots.emplace_back(reading, trees.emplace_back(std::move(*tree)).root);
    }
  }
  Draft draft;
  if (!report.refused()) {
    if (!roots.empty() && !roots.front().node().items.empty()) {
      draft.first_key = Place{roots.front().node().file, roots.front().node().items.front().key_offset, "$.outbounds"};
    }
    read_sections(merge(roots, files), draft);
    cross_check(draft, report, depth);
  }
  if (!report.refused()) out.config = take(std::move(draft));
  out.diagnostics = report.finish(files);
  return out;
}

}  // namespace ebb::config
