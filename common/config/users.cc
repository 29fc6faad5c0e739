// VMess users, on both sides. spec/config.md 4.9, 8.3 and 9.3.
#include <algorithm>
#include <cctype>

#include "common/config/draft.h"
#include "common/config/text.h"
#include "common/crypto/uuid.h"

namespace ebb::config {
namespace {

constexpr std::size_t kMaxUsers = 100'000;

/// Hex digits and dashes, but not enough of them: a UUID that lost its end, not the free text Xray would map.
bool cut_off_uuid(std::string_view text) {
  return text.find('-') != text.npos && std::all_of(text.begin(), text.end(), [](char c) {
           return c == '-' || std::isxdigit(static_cast<unsigned char>(c)) != 0;
         });
}

std::optional<UserId> read_id(Fields& user) {
  const auto id = user.find("id");
  if (!id) {
    user.self().report().refuse("MISSING", user.self().missing("id"), "user has no \"id\"", "write its UUID");
    return std::nullopt;
  }
  const auto text = id->string();
  if (!text) return std::nullopt;
  const bool mapped = crypto::is_mapped_user_id(*text);
  const auto parsed = crypto::parse_user_id(*text);
  if (!parsed || (mapped && cut_off_uuid(*text))) {
    id->refuse("VALUE", "\"" + masked(*text) + "\" is not a UUID (expected 32 hex digits)");
    return std::nullopt;
  }
  if (mapped) {
    id->report().note(Severity::info, "COMPAT", id->place(),
                      "\"" + masked(*text) + "\" is mapped to a UUID as Xray does; V2Ray refuses it");
  }
  return *parsed;
}

}  // namespace

std::optional<VmessUser> read_vmess_user(Fields& fields, Side side) {
  if (!fields.valid()) return std::nullopt;
  VmessUser out;
  const auto id = read_id(fields);
  out.alter_id = fields.number<std::uint16_t>("alterId").value_or(0);
  out.level = fields.number<std::uint32_t>("level").value_or(0);
  out.email = fields.string("email").value_or("");
  const auto security = fields.find("security");
  if (side == Side::inbound) {
    if (security && security->string()) security->warn("INEFFECTIVE", "\"security\" has no effect: the client chooses");
  } else if (const auto word = security ? security->string() : std::nullopt; word && !word->empty()) {
    constexpr std::pair<std::string_view, VmessSecurity> kWords[] = {
        {"auto", VmessSecurity::auto_},
        {"aes-128-gcm", VmessSecurity::aes_128_gcm},
        {"chacha20-poly1305", VmessSecurity::chacha20_poly1305},
        {"none", VmessSecurity::none},
        {"zero", VmessSecurity::zero}};
    if (const auto found = word_in(*word, kWords)) {
      out.security = *found;
    } else {
      security->refuse("VALUE", "unknown VMess security " + quoted(*word),
                       "auto, aes-128-gcm, chacha20-poly1305, none or zero");
    }
  }
  fields.no_effect({"experiments"});
  if (!id) return std::nullopt;
  out.id = *id;
  return out;
}

std::vector<VmessUser> read_vmess_users(const Value& list, Side side) {
  std::vector<VmessUser> out;
  const auto elements = list.elements("an array of users");
  if (elements.size() > kMaxUsers) {
    list.refuse("VALUE", "more than 100000 users in one place");
    return out;
  }
  out.reserve(elements.size());
  std::map<std::string, const Value*> emails;  // folded e-mail to the user that has it
  for (const auto& element : elements) {
    Fields fields(element, "a user object");
    auto user = read_vmess_user(fields, side);
    if (!user) continue;
    if (side == Side::inbound && !user->email.empty()) {
      const auto [other, fresh] = emails.emplace(lower(user->email), &element);
      if (!fresh) {
        fields.find("email")->refuse(
            "VALUE", "e-mail " + quoted(user->email) + " is already used by " + other->second->path(), "change one");
      }
    }
    out.push_back(std::move(*user));
  }
  return out;
}

}  // namespace ebb::config
