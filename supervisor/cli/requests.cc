#include "supervisor/cli/requests.h"

#include <simdjson.h>
#include <unistd.h>

#include <charconv>

#include "common/base/json_writer.h"
#include "supervisor/admin/protocol.h"
#include "supervisor/admin/status.h"
#include "supervisor/cli/commands.h"

namespace ebb::supervisor {
namespace {

std::string phase_name(Machine::Phase phase) {
  switch (phase) {
    case Machine::Phase::starting: return "starting";
    case Machine::Phase::running: return "active";
    case Machine::Phase::retiring:
    case Machine::Phase::draining: return "draining";
    default: return "stopping";
  }
}

using Reply = std::function<void(std::string)>;

void answer_status(Runner& runner, const Reply& reply) {
  const bool asked = runner.ask_children(R"({"query":"status"})", [&runner, reply](std::vector<ChildAnswer> answers) {
    const Machine& machine = runner.machine();
    const Snapshot& snapshot = *runner.configuration().snapshot;
    admin::StatusInput input;
    input.generation = machine.generation();
    input.pid = ::getpid();
    const std::string phase = phase_name(machine.phase());
    input.phase = phase;
    input.reload_step = machine.operation();
    input.last_reload = machine.last_reload();
    input.children = std::move(answers);
    input.replays = runner.replays();
    input.listeners = &snapshot.listeners;
    input.config = &snapshot.config;
    reply(admin::reply_ok(admin::status_json(input)));
  });
  if (!asked) reply(admin::reply_error(kExitStart, "too many questions at once"));
}

/// Answers who asked for an operation when it is over, or at once when he does not wait.
std::function<void(int, std::string)> when_done(bool wait, const Reply& reply, std::function<std::string()> result) {
  return [wait, reply, result = std::move(result)](int exit, const std::string& text) {
    if (!wait) return;
    reply(exit == 0 ? admin::reply_ok(result()) : admin::reply_error(exit, text));
  };
}

void answer_operation(Runner& runner, const admin::Request& request, const Reply& reply) {
  if (request.command == "reload") {
    runner.reload(when_done(request.wait, reply, [&runner] {
      const auto& plan = runner.configuration().plan;
      return "{\"generation\":" + std::to_string(runner.machine().generation()) +
             ",\"workers\":" + std::to_string(plan.workers) + "}";
    }));
  } else if (request.command == "upgrade") {
    runner.upgrade(when_done(request.wait, reply, [] { return "{}"; }));
  } else {
    runner.renew_broker(when_done(request.wait, reply, [&runner] {
      const Child* broker = runner.machine().broker();
      return "{\"broker\":" + std::to_string(broker != nullptr ? broker->gen : 0) + "}";
    }));
  }
  if (!request.wait) reply(admin::reply_ok("{}"));
}

/// `kick` and `drain` of a tunnel or a user: every process that may have some of it is asked.
void answer_removal(Runner& runner, const admin::Request& request, const Reply& reply) {
  JsonWriter query;
  query.object().key("query").text(request.command);
  if (request.what == "tunnel") {  // ids are unique over all brokers
    std::uint64_t id = 0;
    const char* const end = request.which.data() + request.which.size();
    const auto read = std::from_chars(request.which.data(), end, id);
    if (read.ec != std::errc() || read.ptr != end) {
      return reply(admin::reply_error(kExitUsage,
                                      "\"" + request.which + "\" is no tunnel: `ctl status` shows the number of each"));
    }
    query.key("tunnel").number(static_cast<std::int64_t>(id));
  } else {
    query.key("user").text(request.which);
  }
  query.end();
  const auto done = [request, reply](const std::vector<ChildAnswer>& answers) {
    std::int64_t tunnels = 0;
    std::int64_t visitors = 0;
    for (const auto& answer : answers) {
      simdjson::dom::parser parser;
      simdjson::dom::object said;
      std::int64_t count = 0;
      if (!answer.json || parser.parse(*answer.json).get_object().get(said) != simdjson::SUCCESS) continue;
      if (said["tunnels"].get_int64().get(count) == simdjson::SUCCESS) tunnels += count;
      if (said["visitors"].get_int64().get(count) == simdjson::SUCCESS) visitors += count;
    }
    if (tunnels + visitors == 0) {
      return reply(admin::reply_error(kExitStart, "no " + request.what + " \"" + request.which + "\" is connected"));
    }
    reply(
        admin::reply_ok("{\"tunnels\":" + std::to_string(tunnels) + ",\"visitors\":" + std::to_string(visitors) + "}"));
  };
  if (!runner.ask_children(query.str(), done)) {
    reply(admin::reply_error(kExitStart, "too many questions at once"));
  }
}

}  // namespace

admin::Server::Handler admin_handler(Runner& runner) {
  return [&runner](const std::string& line, const Reply& reply) {
    const auto request = admin::parse_request(line);
    if (!request) return reply(admin::reply_error(kExitUsage, request.error().what));
    const std::string& command = request->command;
    if (command == "status") return answer_status(runner, reply);
    if (command == "reload" || command == "upgrade" || (command == "drain" && request->what == "broker")) {
      return answer_operation(runner, *request, reply);
    }
    if (command == "kick" || command == "drain") {
      if (request->what != "tunnel" && request->what != "user") {
        return reply(admin::reply_error(
            kExitUsage, command + " what? tunnel ID, user NAME" + (command == "drain" ? ", or broker" : "")));
      }
      return answer_removal(runner, *request, reply);
    }
    if (command == "reopen") {
      const auto done = runner.reopen_logs();
      return reply(done ? admin::reply_ok("{}")
                        : admin::reply_error(kExitStart, done.error().where + ": " + done.error().what));
    }
    if (command == "stop") {
      runner.stop(request->now, [reply] { reply(admin::reply_ok("{}")); });
      return;
    }
    reply(admin::reply_error(kExitUsage, "unknown command \"" + command +
                                             "\"; there are: status, reload, upgrade, drain, kick, reopen, stop"));
  };
}

}  // namespace ebb::supervisor
