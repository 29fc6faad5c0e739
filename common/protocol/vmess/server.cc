#include "common/protocol/vmess/server.h"

#include <algorithm>

#include "common/protocol/address.h"

namespace ebb::vmess {
namespace {

// A clock 120 s ahead makes an AuthID that stays valid for 240 s.
constexpr UnixSeconds kAuthIdSeconds = 2 * kTimeWindow + 1;
constexpr UnixSeconds kSessionSeconds = 3 * 60 + 1;

Refused close_at_once(Refusal reason) { return Refused{reason, 0}; }

}  // namespace

std::string_view name_of(Refusal reason) {
  switch (reason) {
    case Refusal::unknown_user: return "unknown user or clock too far off";
    case Refusal::replay: return "replayed header";
    case Refusal::bad_header: return "damaged header";
    case Refusal::repeated_session: return "repeated session";
    case Refusal::bad_request: return "unacceptable request";
    case Refusal::insecure: return "insecure encryption refused";
  }
  return "unknown reason";
}

Refused ServerHandshake::drain(Refusal reason) { return Refused{reason, users_.drain().server_total(random_)}; }

Verdict ServerHandshake::feed(ConstSpan received, UnixSeconds now) {
  if (user_ == kNobody) return identify(received, now);
  return legacy_ ? open_legacy(received, now) : open_aead(received, now);
}

Verdict ServerHandshake::identify(ConstSpan received, UnixSeconds now) {
  Block16 first;
  if (received.size() < first.size()) return NeedMore{};
  std::copy_n(received.begin(), first.size(), first.begin());
  if (const auto match = users_.match_auth_id(first, now)) {
    // Before the sealed header is verified: one that was damaged on the way has used up its AuthID.
    if (!guard_.insert(ReplayGuard::Kind::auth_id, first, now + kAuthIdSeconds, now)) return drain(Refusal::replay);
    user_ = match->user;
    return open_aead(received, now);
  }
  const auto match = users_.match_legacy(first, now);
  if (!match || guard_.contains(ReplayGuard::Kind::taint, first, now)) return drain(Refusal::unknown_user);
  user_ = match->user;
  crypto::CfbStream cfb(users_.cmd_key(user_), {legacy_header_iv(match->time), 0}, crypto::CfbStream::Use::decrypt);
  legacy_ = std::make_unique<Legacy>(first, match->time, std::move(cfb));
  return open_legacy(received, now);
}

bool ServerHandshake::fresh_session(ConstSpan plain, UnixSeconds now) {
  std::array<std::uint8_t, 48> triple;  // main id, body IV, body key
  std::ranges::copy(users_.user(user_).id.value, triple.begin());
  std::ranges::copy(plain.subspan(1, 32), triple.begin() + 16);
  return guard_.insert(ReplayGuard::Kind::session, triple, now + kSessionSeconds, now);
}

Verdict ServerHandshake::open_aead(ConstSpan received, UnixSeconds now) {
  if (received.size() < kAeadHeadBytes) return NeedMore{};
  const Block16& cmd_key = users_.cmd_key(user_);
  const ConstSpan head = received.first(kAeadHeadBytes);
  if (!sealed_plain_) {
    const auto length = open_request_length(cmd_key, head);
    if (!length) return drain(Refusal::bad_header);
    if (*length < kFixedRequestBytes || *length > kMaxSealedPlain) return close_at_once(Refusal::bad_request);
    sealed_plain_ = *length;
  }
  const std::size_t sealed_bytes = *sealed_plain_ + crypto::kTagBytes;
  if (received.size() < kAeadHeadBytes + sealed_bytes) return NeedMore{};
  std::array<std::uint8_t, kMaxSealedPlain + crypto::kTagBytes> sealed;
  std::ranges::copy(received.subspan(kAeadHeadBytes, sealed_bytes), sealed.begin());
  const auto plain = open_request(cmd_key, head, MutSpan(sealed).first(sealed_bytes));
  if (!plain) return drain(Refusal::bad_header);
  // From here on the peer is authentic: nothing is drained.
  if (!fresh_session(*plain, now)) return close_at_once(Refusal::repeated_session);
  return finish(*plain, kAeadHeadBytes + sealed_bytes);
}

Verdict ServerHandshake::open_legacy(ConstSpan received, UnixSeconds now) {
  Legacy& header = *legacy_;
  // The header has no length: decrypt only as far as what is read so far says it goes on.
  for (;;) {
    const ConstSpan opened = ConstSpan(header.plain).first(header.opened);
    const std::size_t needed = request_bytes_needed(opened);
    if (header.opened >= needed) break;
    const ConstSpan sealed = received.subspan(16 + header.opened);
    const std::size_t n = std::min(needed - header.opened, sealed.size());
    header.cfb.apply(sealed.first(n), MutSpan(header.plain).subspan(header.opened));
    header.opened += n;
    if (header.opened < needed) return NeedMore{};
    if (!header.session_checked) {
      header.session_checked = true;
      if (!fresh_session(header.plain, now)) {
        taint(now);
        return drain(Refusal::repeated_session);
      }
    }
  }
  const ConstSpan plain = ConstSpan(header.plain).first(header.opened);
  const std::size_t checksum_at = plain.size() - 4;
  if (crypto::fnv1a(plain.first(checksum_at)) != load_be32(plain.subspan(checksum_at))) {
    taint(now);
    return drain(Refusal::bad_header);
  }
  return finish(plain, 16 + header.opened);
}

Verdict ServerHandshake::finish(ConstSpan plain, std::size_t used) {
  auto request = parse_request(plain, legacy_ != nullptr);
  if (!request) return close_at_once(Refusal::bad_request);
  const Security security = request->keys.security;
  if (options_.refuse_insecure && (security == Security::cfb || security == Security::none)) {
    return close_at_once(Refusal::insecure);
  }
  return Accepted{*std::move(request), user_, used};
}

void ServerHandshake::taint(UnixSeconds now) {
  // Nobody gains from a full guard here: the same auth is then found, and refused, by its repeated session.
  guard_.insert(ReplayGuard::Kind::taint, legacy_->auth, legacy_->time + kTimeWindow + 1, now);
}

void ServerHandshake::ended(UnixSeconds now) {
  if (!legacy_ || legacy_->opened < kFixedRequestBytes) return;
  const ConstSpan opened = ConstSpan(legacy_->plain).first(legacy_->opened);
  const bool has_address = opened[37] == 1 || opened[37] == 2;
  if (has_address) {
    const std::size_t address = address_bytes(opened.subspan(kFixedRequestBytes), kPortFirstAddress);
    if (address == 0 || opened.size() < kFixedRequestBytes + address) return;
  }
  taint(now);
}

}  // namespace ebb::vmess
