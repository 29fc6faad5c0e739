#include "supervisor/admin/protocol.h"

#include <simdjson.h>

#include "common/base/json_writer.h"

namespace ebb::supervisor::admin {
namespace {

Error bad(std::string what) { return Error{Errc::protocol, std::move(what), {}}; }

}  // namespace

Result<Request> parse_request(std::string_view line) {
  if (line.size() > kMaxRequest) return std::unexpected(bad("the request is longer than 64 KiB"));
  simdjson::dom::parser parser;
  simdjson::dom::object object;
  if (parser.parse(line.data(), line.size()).get_object().get(object) != simdjson::SUCCESS) {
    return std::unexpected(bad("the request is not a JSON object"));
  }
  std::string_view command;
  if (object["command"].get_string().get(command) != simdjson::SUCCESS) {
    return std::unexpected(bad("the request has no \"command\""));
  }
  Request request{std::string(command)};
  for (auto [key, into] : {std::pair{"wait", &request.wait}, std::pair{"now", &request.now}}) {
    const auto error = object[key].get_bool().get(*into);
    if (error != simdjson::SUCCESS && error != simdjson::NO_SUCH_FIELD) {
      return std::unexpected(bad(std::string("\"") + key + "\" is not a boolean"));
    }
  }
  for (auto [key, into] : {std::pair{"what", &request.what}, std::pair{"which", &request.which}}) {
    std::string_view text;
    const auto error = object[key].get_string().get(text);
    if (error == simdjson::SUCCESS) {
      *into = text;
    } else if (error != simdjson::NO_SUCH_FIELD) {
      return std::unexpected(bad(std::string("\"") + key + "\" is not a string"));
    }
  }
  return request;
}

std::string reply_ok(std::string_view result) {
  JsonWriter out;
  out.object().key("ok").boolean(true).key("exit").number(0).key("error").null().key("result").raw(result).end();
  return out.str() + "\n";
}

std::string reply_error(int exit, std::string_view text) {
  JsonWriter out;
  out.object().key("ok").boolean(false).key("exit").number(exit).key("error").text(text).key("result").null().end();
  return out.str() + "\n";
}

Result<Reply> parse_reply(std::string_view text) {
  simdjson::dom::parser parser;
  simdjson::dom::object object;
  Reply reply;
  if (parser.parse(text.data(), text.size()).get_object().get(object) != simdjson::SUCCESS ||
      object["ok"].get_bool().get(reply.ok) != simdjson::SUCCESS) {
    return std::unexpected(bad("the answer is not a reply of ebbgate"));
  }
  std::int64_t exit = 1;
  if (object["exit"].get_int64().get(exit) == simdjson::SUCCESS && exit >= 0 && exit < 256)
    reply.exit = static_cast<int>(exit);
  std::string_view error;
  if (object["error"].get_string().get(error) == simdjson::SUCCESS) reply.error = error;
  simdjson::dom::element result;
  if (object["result"].get(result) == simdjson::SUCCESS && !result.is_null()) reply.result = simdjson::minify(result);
  return reply;
}

}  // namespace ebb::supervisor::admin
