#include "common/net/resolver.h"

#include <sys/socket.h>
#include <uv.h>

#include <algorithm>

namespace ebb::net {
namespace {

Error cannot_resolve(std::string_view name, std::string_view why) {
  return Error{Errc::unresolved, "resolve " + std::string(name) + ": " + std::string(why), {}};
}

std::vector<IpAddress> addresses_of(const addrinfo* list) {
  std::vector<IpAddress> out;
  for (; list != nullptr && out.size() < Lookup::kMaxAddresses; list = list->ai_next) {
    const auto endpoint = endpoint_from(list->ai_addr);
    if (endpoint && std::ranges::find(out, endpoint->ip) == out.end()) out.push_back(endpoint->ip);
  }
  return out;
}

}  // namespace

bool is_domain_name(std::string_view name) {
  if (name.ends_with('.')) name.remove_suffix(1);
  if (name.empty() || name.size() > 253) return false;
  // Bytes above 0x7f are left to libuv's IDNA conversion.
  constexpr std::string_view kForbidden = " \"#%/:;<>?@[\\]^`{|}";
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f || kForbidden.find(c) != std::string_view::npos) return false;
  }
  const std::string_view last = name.substr(name.rfind('.') + 1);
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  return !last.empty() && !std::ranges::all_of(last, digit) && !last.starts_with("0x") && !last.starts_with("0X");
}

struct Lookup::Request {
  uv_getaddrinfo_t uv{};
  Lookup* owner = nullptr;  // null once it was destroyed
  UvLoop* loop = nullptr;
  std::string name;
};

Lookup::Lookup(UvLoop& loop, const Host& host, Done done)
    : done_(std::move(done)), answer_([](void* self) { static_cast<Lookup*>(self)->answer(); }, this) {
  if (const auto* ip = std::get_if<IpAddress>(&host)) {
    known_ = std::vector{*ip};
    loop.defer(answer_);
    return;
  }
  const std::string& name = std::get<std::string>(host);
  if (!is_domain_name(name)) {
    known_ = std::unexpected(cannot_resolve(name, "not a domain name"));
    loop.defer(answer_);
    return;
  }
  auto request = std::make_unique<Request>();
  request->owner = this;
  request->loop = &loop;
  request->name = name;
  request->uv.data = request.get();
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  const auto resolved = [](uv_getaddrinfo_t* uv, int status, addrinfo* list) {
    const std::unique_ptr<Request> self(static_cast<Request*>(uv->data));
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> held(list, uv_freeaddrinfo);
    if (self->owner == nullptr) return;
    Lookup& lookup = *self->owner;
    self->loop->woken();
    lookup.request_ = nullptr;
    if (status != 0) {
      lookup.known_ = std::unexpected(cannot_resolve(self->name, uv_strerror(status)));
    } else {
      lookup.known_ = addresses_of(list);
      if (lookup.known_->empty()) lookup.known_ = std::unexpected(cannot_resolve(self->name, "no IP address"));
    }
    lookup.answer();
  };
  const int rc = uv_getaddrinfo(loop.raw(), &request->uv, resolved, name.c_str(), nullptr, &hints);
  if (rc == 0) {
    request_ = request.release();
  } else {
    known_ = std::unexpected(cannot_resolve(name, uv_strerror(rc)));
    loop.defer(answer_);
  }
}

Lookup::~Lookup() {
  if (request_ == nullptr) return;
  request_->owner = nullptr;
  // Takes it out of the queue when no thread has begun; the callback comes in any case and frees it.
  uv_cancel(reinterpret_cast<uv_req_t*>(&request_->uv));
}

void Lookup::answer() {
  const Done done = std::move(done_);
  done(std::move(known_));  // may destroy us
}

}  // namespace ebb::net
