#include "common/net/dial.h"

#include <algorithm>

namespace ebb::net {
namespace {

constexpr Duration kPauseStep = std::chrono::milliseconds(100);

}  // namespace

Dial::Dial(UvLoop& loop, DialPlan plan, Done done)
    : loop_(loop),
      plan_(std::move(plan)),
      done_(std::move(done)),
      pause_([](void* self) { static_cast<Dial*>(self)->begin_attempt(); }, this),
      deadline_([](void* self) { static_cast<Dial*>(self)->on_late(); }, this),
      start_([](void* self) { static_cast<Dial*>(self)->begin_attempt(); }, this) {
  loop_.defer(start_);
}

Dial::~Dial() = default;

void Dial::begin_attempt() {
  loop_.arm(deadline_, plan_.attempt_timeout);
  if (const auto* ip = std::get_if<IpAddress>(&plan_.host)) return on_addresses(std::vector{*ip});
  lookup_ = std::make_unique<Lookup>(loop_, plan_.host, [this](auto addresses) { on_addresses(std::move(addresses)); });
}

void Dial::on_addresses(Result<std::vector<IpAddress>> addresses) {
  lookup_.reset();
  if (!addresses) return attempt_failed(std::move(addresses.error()));
  if (plan_.bind) {
    std::erase_if(*addresses, [v6 = plan_.bind->v6](const IpAddress& ip) { return ip.v6 != v6; });
    if (addresses->empty()) {
      return attempt_failed(
          Error{Errc::unreachable,
                "connect " + host_text(plan_.host) + ": no address of the family of " + plan_.bind->text(),
                {}});
    }
  }
  const bool literal = std::holds_alternative<IpAddress>(plan_.host);
  race_ = std::make_unique<Race>(
      loop_, std::move(*addresses),
      RacePlan{literal ? std::string() : host_text(plan_.host), plan_.port, plan_.bind, plan_.dead_after},
      [this](Result<Fd> socket) { on_race_over(std::move(socket)); });
}

void Dial::on_race_over(Result<Fd> socket) {
  if (!socket) return attempt_failed(std::move(socket.error()));
  stop_trying();
  finish(std::make_unique<TcpStream>(loop_, std::move(*socket)));
}

void Dial::on_late() {
  if (race_ && race_->last_error()) return attempt_failed(*race_->last_error());
  attempt_failed(Error{Errc::timeout,
                       "connect " + host_text(plan_.host) + ":" + std::to_string(plan_.port) + ": no answer in time",
                       {}});
}

void Dial::attempt_failed(Error why) {
  stop_trying();
  if (++attempt_ >= plan_.attempts) return finish(std::unexpected(std::move(why)));
  loop_.arm(pause_, attempt_ * kPauseStep);
}

void Dial::stop_trying() {
  lookup_.reset();
  race_.reset();
  deadline_.disarm();
}

void Dial::finish(Result<std::unique_ptr<TcpStream>> outcome) {
  const Done done = std::move(done_);
  done(std::move(outcome));  // may destroy us
}

}  // namespace ebb::net
