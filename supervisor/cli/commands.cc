#include "supervisor/cli/commands.h"

#include <cstdio>

#include "common/base/json_writer.h"
#include "common/config/canonical.h"
#include "common/config/load.h"
#include "common/crypto/random.h"
#include "common/crypto/uuid.h"
#include "supervisor/admin/client.h"
#include "supervisor/admin/protocol.h"
#include "supervisor/admin/status.h"
#include "supervisor/cli/opening.h"
#include "supervisor/process/checker.h"
#include "supervisor/process/runtime_dir.h"

namespace ebb::supervisor {
namespace {

constexpr std::chrono::seconds kAnswerLimit{10};
constexpr std::chrono::minutes kOperationLimit{5};  // reload, upgrade, stop

int complain(int exit, const std::string& text) {
  std::fprintf(stderr, "ebbgate: %s\n", text.c_str());
  return exit;
}

struct Reading {
  std::optional<config::Config> config;
  std::vector<config::Diagnostic> found;
  std::string instance;
};
/// Here and not in a child: a crash costs these commands nothing.
Reading read_configuration(const config::Invocation& invocation) {
  auto gathered = config::gather(invocation, config::this_machine());
  Reading reading;
  reading.instance = instance_of(gathered.files);
  reading.found = std::move(gathered.diagnostics);
  if (reading.found.empty()) {
    auto loaded = config::load(std::move(gathered.files), config::process_surroundings());
    reading.config = std::move(loaded.config);
    reading.found = std::move(loaded.diagnostics);
  }
  return reading;
}

/// The admin socket of the instance that runs with these files; on failure the exit status, everything said.
std::expected<std::string, int> socket_of(const config::Invocation& invocation) {
  const Reading reading = read_configuration(invocation);
  if (!reading.config) {
    for (const auto& one : reading.found) {
      if (one.refuses) std::fprintf(stderr, "%s\n", one.text().c_str());
    }
    return std::unexpected(kExitConfig);
  }
  const auto& settings = reading.config->settings;
  if (settings.admin_socket && settings.admin_socket->empty()) {
    return std::unexpected(
        complain(kExitStart, "this configuration turns the admin socket off (ebbgate.admin.socket)"));
  }
  if (settings.admin_socket) return *settings.admin_socket;
  return runtime_path(settings.runtime_dir, reading.instance, process_runtime_places()) + "/ctl.sock";
}

std::expected<std::string, int> only_socket() {
  const auto running = running_instances(process_runtime_places());
  if (running.size() == 1) return running[0] + "/ctl.sock";
  if (running.empty()) return std::unexpected(complain(kExitStart, "no ebbgate of this user is running"));
  std::string text = "several instances are running; choose one with -c FILE or --socket PATH:";
  for (const auto& path : running) {
    text += "\n  " + path + "/ctl.sock  (process " + std::to_string(lock_holder(path + "/lock").value_or(0)) + ")";
  }
  return std::unexpected(complain(kExitUsage, text));
}

}  // namespace

int test_configuration(const Command& command) {
  const auto binary = Binary::self();
  if (!binary) return complain(kExitStart, binary.error().what);
  const Opened opened = open_configuration(*binary, command.invocation);
  if (!opened.config) return opened.exit;
  std::puts("Configuration OK.");
  return kExitOk;
}

int analyse_configuration(const Command& command) {
  const Reading reading = read_configuration(command.invocation);
  constexpr const char* kNames[] = {"info", "warning", "error"};
  JsonWriter out;
  out.object().key("findings").array();
  bool wrong = false;
  for (const auto& one : reading.found) {
    wrong = wrong || one.severity == config::Severity::error;
    if (!command.json) std::printf("%s\n", one.text().c_str());
    out.object().key("severity").text(kNames[static_cast<int>(one.severity)]).key("code").text(one.code);
    out.key("file")
        .text(one.file)
        .key("line")
        .number(one.line)
        .key("column")
        .number(one.column)
        .key("path")
        .text(one.path);
    out.key("message")
        .text(one.message)
        .key("suggestion")
        .text(one.suggestion)
        .key("refuses")
        .boolean(one.refuses)
        .end();
  }
  out.end().end();
  if (command.json) std::puts(out.str().c_str());
  if (!command.json && !wrong)
    std::puts(reading.found.empty() ? "Nothing to remark." : "Nothing that has to be changed.");
  return wrong ? kExitConfig : kExitOk;
}

int dump_configuration(const Command& command) {
  const auto binary = Binary::self();
  if (!binary) return complain(kExitStart, binary.error().what);
  const Opened opened = open_configuration(*binary, command.invocation);
  if (!opened.config) return opened.exit;
  std::fputs(config::canonical_json(*opened.config, config::Secrets::mask).c_str(), stdout);
  return kExitOk;
}

int print_version() {
  std::puts("ebbgate " EBB_VERSION " (reverse proxy for V2Ray and Xray configurations; Linux, x86-64)");
  return kExitOk;
}

int print_uuid() {
  UserId id;
  crypto::SystemRandom().fill(id.value);
  id.value[6] = static_cast<std::uint8_t>((id.value[6] & 0x0F) | 0x40);  // RFC 4122: version 4
  id.value[8] = static_cast<std::uint8_t>((id.value[8] & 0x3F) | 0x80);
  std::puts(crypto::uuid_text(id).c_str());
  return kExitOk;
}

int control(const Command& command) {
  std::string socket = command.socket;
  if (socket.empty()) {
    const bool named = !command.invocation.configs.empty() || command.invocation.confdir;
    const auto found = named ? socket_of(command.invocation) : only_socket();
    if (!found) return found.error();
    socket = *found;
  }
  JsonWriter request;
  request.object().key("command").text(command.action);
  request.key("wait").boolean(command.wait);
  if (command.action == "stop") request.key("now").boolean(command.now);
  if (!command.what.empty()) request.key("what").text(command.what).key("which").text(command.which);
  request.end();
  const bool removes = command.what == "tunnel" || command.what == "user";
  const bool quick = command.action == "status" || command.action == "reopen" || removes;
  const auto answer =
      admin::ask(socket, request.str(), quick ? std::chrono::milliseconds(kAnswerLimit) : kOperationLimit);
  if (!answer) return complain(kExitStart, answer.error().where + ": " + answer.error().what);
  const auto reply = admin::parse_reply(*answer);
  if (!reply) return complain(kExitStart, reply.error().what);
  if (command.json) {
    std::fputs(answer->c_str(), stdout);
    return reply->exit;
  }
  if (!reply->ok) return complain(reply->exit, reply->error);
  if (removes) {
    std::printf("%s\n", admin::removal_text(reply->result).c_str());
    return kExitOk;
  }
  if (command.action != "status") return kExitOk;
  const auto text = admin::status_text(reply->result);
  if (!text) return complain(kExitStart, text.error().what);
  std::fputs(text->c_str(), stdout);
  return kExitOk;
}

}  // namespace ebb::supervisor
