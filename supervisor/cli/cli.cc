#include "supervisor/cli/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <string_view>

namespace ebb::supervisor {
namespace {

/// `-config x`, `-config=x` and `-c=x` as CLI11 wants them: `--config x`, `--config=x`, `-c x`.
std::vector<std::string> two_dashes(std::vector<std::string> arguments) {
  std::vector<std::string> out;
  for (auto& argument : arguments) {
    const bool single = argument.size() > 1 && argument[0] == '-' && argument[1] != '-' &&
                        std::isalpha(static_cast<unsigned char>(argument[1])) != 0;
    const auto equals = argument.find('=');
    const std::size_t name = std::min(equals, argument.size()) - std::min<std::size_t>(1, argument.size());
    if (single && name > 1) {
      out.push_back("-" + argument);
    } else if (single && equals == 2) {
      out.push_back(argument.substr(0, 2));
      out.push_back(argument.substr(3));
    } else {
      out.push_back(std::move(argument));
    }
  }
  return out;
}

struct Options {
  std::vector<std::string> configs;
  std::string confdir;
  std::string format = "auto";
  bool recurse = false;
  bool test = false;
  bool version = false;
};

void add_configuration(CLI::App& app, Options& options) {
  app.add_option("-c,--config", options.configs, "a configuration file; repeatable; stdin: is standard input")
      ->allow_extra_args(false);
  app.add_option("-d,--confdir", options.confdir, "a directory of .json files, appended in the order of their names");
  app.add_flag("-r", options.recurse, "confdir's subdirectories too");
  app.add_option("--format", options.format, "json, jsonc or auto: they are the same here");
}

/// Sub-commands of V2Ray and Xray, and our own that are still to come: named, so that nobody searches in vain.
const char* missing_command(std::string_view word) {
  constexpr std::array kForeign = {"convert", "api", "tls", "x25519", "wg", "mldsa65", "mlkem768", "vlessenc"};
  constexpr std::array kLater = {"explain", "init"};
  if (std::ranges::find(kForeign, word) != kForeign.end()) return "belongs to V2Ray or Xray; ebbgate does not have it";
  if (std::ranges::find(kLater, word) != kLater.end()) return "is not built yet";
  return nullptr;
}

std::optional<std::string> ctl_problem(const Command& command) {
  constexpr std::array<std::string_view, 7> kActions = {"status", "reload", "upgrade", "drain",
                                                        "kick",   "reopen", "stop"};
  const std::string& action = command.action;
  if (std::ranges::find(kActions, std::string_view(action)) == kActions.end()) {
    return "there is no ctl " + action + "; there are: status, reload, upgrade, drain, kick, reopen, stop";
  }
  const bool removes = action == "drain" || action == "kick";
  if (!removes)
    return command.what.empty() ? std::nullopt : std::optional("ctl " + action + " takes no " + command.what);
  const bool named = (command.what == "tunnel" || command.what == "user") && !command.which.empty();
  const bool broker = action == "drain" && command.what == "broker" && command.which.empty();
  if (named || broker) return std::nullopt;
  return "ctl " + action + " what? tunnel ID, user NAME" + (action == "drain" ? ", or broker" : "") +
         " (`ebbgate ctl status` names the tunnels)";
}

Usage wrong(const std::string& text) { return {2, "ebbgate: " + text + "\nTry: ebbgate --help\n"}; }

}  // namespace

std::variant<Command, Usage> parse_command_line(std::vector<std::string> arguments) {
  arguments = two_dashes(std::move(arguments));
  if (!arguments.empty() && !arguments[0].starts_with('-')) {
    if (const char* why = missing_command(arguments[0]))
      return wrong("the sub-command \"" + arguments[0] + "\" " + why);
  }
  CLI::App app("ebbgate: a reverse proxy that runs V2Ray and Xray `reverse` configurations", "ebbgate");
  app.require_subcommand(0, 1);
  Options options;
  Command command;
  add_configuration(app, options);
  app.add_flag("--test", options.test, "only check the configuration (exit status 23 when it is wrong)");
  app.add_flag("--version", options.version, "print the version");

  auto* run = app.add_subcommand("run", "run with a configuration; also without the word, as V2Ray is started");
  auto* test =
      app.add_subcommand("test", "check a configuration: \"Configuration OK.\", or everything that is wrong with it");
  auto* check = app.add_subcommand("check", "say everything about a configuration: mistakes, doubts, remarks");
  auto* dump = app.add_subcommand("dump", "print the configuration as it is understood, with secrets masked");
  auto* version = app.add_subcommand("version", "print the version");
  auto* uuid = app.add_subcommand("uuid", "print a new user id");
  auto* ctl = app.add_subcommand("ctl", "ask a running ebbgate");
  for (auto* one : {run, test, check, dump}) add_configuration(*one, options);
  run->add_flag("--test", options.test, "only check the configuration");
  check->add_flag("--json", command.json, "print JSON");
  ctl->add_option("action", command.action,
                  "status, reload, upgrade (run the binary that lies there now), drain or kick (tunnel ID, user NAME; "
                  "drain broker: put a fresh one in its place), reopen (the log files), stop")
      ->required();
  ctl->add_option("what", command.what, "of drain and kick: tunnel, user, broker");
  ctl->add_option("which", command.which, "a tunnel as `ctl status` names it, a user's email or id");
  ctl->add_flag("--wait,!--no-wait", command.wait,
                "reload, upgrade, drain broker: answer with the result (the default), or at once");
  ctl->add_flag("--now", command.now, "stop: cut connections after stopGrace");
  ctl->add_option("-c,--config", options.configs, "the configuration it runs with")->allow_extra_args(false);
  ctl->add_option("-d,--confdir", options.confdir, "the directory it runs with");
  ctl->add_option("--socket", command.socket, "its admin socket");
  ctl->add_flag("--json", command.json, "print JSON");

  try {
    std::ranges::reverse(arguments);  // CLI11 takes them from the back
    app.parse(std::move(arguments));
  } catch (const CLI::CallForHelp&) {
    const auto chosen = app.get_subcommands();
    return Usage{0, chosen.empty() ? app.help() : chosen[0]->help("ebbgate")};
  } catch (const CLI::Error& error) {
    return wrong(error.what());
  }

  command.invocation.configs = std::move(options.configs);
  if (!options.confdir.empty()) command.invocation.confdir = options.confdir;
  command.invocation.recurse = options.recurse;
  constexpr std::array kJson = {"auto", "json", "jsonc"};
  if (std::ranges::find(kJson, options.format) == kJson.end()) {
    return wrong("--format " + options.format + " is not supported: convert the configuration to JSON");
  }
  if (options.version || version->parsed()) {
    command.kind = Command::Kind::version;
  } else if (uuid->parsed()) {
    command.kind = Command::Kind::uuid;
  } else if (ctl->parsed()) {
    command.kind = Command::Kind::ctl;
    if (const auto problem = ctl_problem(command)) return wrong(*problem);
  } else if (check->parsed()) {
    command.kind = Command::Kind::check;
  } else if (dump->parsed()) {
    command.kind = Command::Kind::dump;
  } else if (test->parsed() || options.test) {
    command.kind = Command::Kind::test;
  }
  return command;
}

}  // namespace ebb::supervisor
