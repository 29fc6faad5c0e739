// ipc/PROTOCOL.md prints the table of codec.cc; this keeps the two the same.
#include <gtest/gtest.h>

#include <cctype>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "ipc/codec.h"

namespace ebb::ipc {
namespace {

std::string join(unsigned bits, std::initializer_list<const char*> names, unsigned first) {
  std::string out;
  for (const char* name : names) {
    if (bits & (1u << first)) out += (out.empty() ? "" : ", ") + std::string(name);
    ++first;
  }
  return out;
}

std::string row(const Rule& r) {
  const auto phases = [](unsigned bits) {
    return bits == 15 ? "any" : join(bits, {"greeting", "setup", "running", "leaving", "over"}, 0);
  };
  std::string body;
  if (r.fixed != 0 || (r.record == 0 && r.max_tail == 0)) body = std::to_string(r.fixed);
  if (r.record != 0) {
    body += (body.empty() ? "" : " + ") + std::to_string(r.min_records) + ".." + std::to_string(r.max_records) + " x " +
            std::to_string(r.record);
  }
  if (r.max_tail != 0) body += (body.empty() ? "<= " : " + <= ") + std::to_string(r.max_tail);
  const char* const fds[] = {"", "1", "1 per record", "1 with PREPARE", "1 per record, then 1 per bit of shm_kinds"};
  std::ostringstream out;
  out << "| " << static_cast<unsigned>(r.type) << " | " << r.name << " | "
      << join(r.links, {"ctl", "upgrade", "adoption", "handoff"}, 0) << " | "
      << join(r.senders, {"supervisor", "worker", "broker", "checker", "successor"}, 1) << " | " << phases(r.phases)
      << " | " << phases(r.moves_to) << " | " << body << " | " << fds[static_cast<unsigned>(r.fds)] << " | "
      << (r.more ? "yes" : "") << " |";
  return out.str();
}

TEST(ProtocolDoc, PrintsTheTableOfTheCodec) {
  std::ifstream file("ipc/PROTOCOL.md");
  ASSERT_TRUE(file) << "run from the root of the repository";
  std::set<std::string> rows;
  for (std::string line; std::getline(file, line);) rows.insert(line);
  std::string missing;
  for (const Rule& rule : rules()) {
    if (!rows.erase(row(rule))) missing += row(rule) + "\n";
  }
  EXPECT_EQ(missing, "") << "these rows belong into ipc/PROTOCOL.md";
  for (const std::string& line : rows) {
    EXPECT_FALSE(line.starts_with("| ") && line.size() > 4 && std::isdigit(static_cast<unsigned char>(line[2])))
        << "no such rule: " << line;
  }
}

}  // namespace
}  // namespace ebb::ipc
