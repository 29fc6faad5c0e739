#include "supervisor/generations/configuration.h"

#include <fcntl.h>

#include "common/config/canonical.h"
#include "common/crypto/hash.h"
#include "ipc/memfd.h"

namespace ebb::supervisor {
namespace {

constexpr int kWrongConfiguration = 23;

std::unexpected<Loader::Refusal> refusal(int exit, std::string text) {
  return std::unexpected(Loader::Refusal{exit, std::move(text)});
}

}  // namespace

Result<std::shared_ptr<const Snapshot>> make_snapshot(std::string_view text, config::Config config) {
  auto sealed = ipc::make_sealed("ebbgate-configuration", as_bytes(text));
  if (!sealed) return std::unexpected(std::move(sealed.error()).in("could not store the configuration"));
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->listeners = listeners_of(config);
  snapshot->config = std::move(config);
  snapshot->memfd = std::move(*sealed);
  snapshot->bytes = text.size();
  snapshot->sha256 = crypto::sha256({as_bytes(text)});
  return snapshot;
}

bool may_carry_tunnels(const config::Config& config, std::size_t inbound) {
  if (inbound >= config.inbounds.size()) return false;
  const auto* door = std::get_if<config::DokodemoInbound>(&config.inbounds[inbound].protocol);
  for (const auto& portal : config.portals) {
    const auto* name = door != nullptr ? std::get_if<std::string>(&door->address) : nullptr;
    if (config.inbounds[inbound].authenticates() || (name != nullptr && *name == portal.domain)) return true;
    if (door == nullptr && portal.allow_unauthenticated) return true;
  }
  return false;
}

Loader::Loader(net::UvLoop& loop, const Binary& binary, config::Invocation invocation)
    : loop_(loop),
      binary_(binary),
      invocation_(std::move(invocation)),
      limit_([](void* self) { static_cast<Loader*>(self)->finish(true); }, this),
      settle_([](void* self) { static_cast<Loader*>(self)->settle(); }, this) {}

Loader::~Loader() { cancel(); }

void Loader::start(Done done) {
  done_ = std::move(done);
  const Fd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));  // standard input was read at the start
  CheckRequest request;
  request.invocation = invocation_;
  request.input = nothing.get();
  auto checker = Checker::start(binary_, request);
  if (!checker) {
    verdict_ = refusal(1, "the configuration checker cannot be started: " + checker.error().what);
    loop_.defer(settle_);
    return;
  }
  checker_ = std::make_unique<Checker>(std::move(*checker));
  watch_ = std::make_unique<Watch>(loop_, checker_->fd(), [this] { on_readable(); });
  loop_.arm(limit_, request.limit);
}

void Loader::cancel() {
  done_ = nullptr;
  verdict_.reset();
  limit_.disarm();
  if (watch_) watch_->stop();
  checker_.reset();  // ends it
}

bool Loader::ended(pid_t pid, const ExitStatus& status) {
  if (!checker_ || checker_->pid() != pid) return false;
  checker_->ended(status);
  if (!verdict_) on_readable();  // what it said last, and the end
  return true;
}

void Loader::on_readable() {
  if (checker_ && !verdict_ && checker_->on_readable()) finish(false);
}

void Loader::finish(bool timed_out) {
  limit_.disarm();
  watch_->stop();  // destroyed in settle(): its callback may be running
  auto verdict = checker_->finish(timed_out);
  if (!verdict) {
    verdict_ = refusal(1, verdict.error().where + (verdict.error().where.empty() ? "" : ": ") + verdict.error().what);
  } else if (!verdict->accepted) {
    verdict_ = refusal(kWrongConfiguration, std::move(verdict->diagnostics));
  } else {
    auto config = config::parse_canonical(verdict->snapshot);
    auto snapshot = config ? make_snapshot(verdict->snapshot, std::move(*config))
                           : std::unexpected(Error{Errc::config, "the canonical configuration does not parse", {}});
    if (snapshot) {
      verdict_ = Loaded{std::move(*snapshot), std::move(verdict->diagnostics)};
    } else {
      verdict_ = refusal(1, snapshot.error().where + ": " + snapshot.error().what);
    }
  }
  loop_.defer(settle_);
}

void Loader::settle() {
  checker_.reset();
  watch_.reset();
  auto done = std::exchange(done_, nullptr);
  auto verdict = std::exchange(verdict_, std::nullopt);
  if (done && verdict) done(std::move(*verdict));
}

}  // namespace ebb::supervisor
