#include "ipc/replay_table.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <new>

namespace ebb::ipc {
namespace {

constexpr std::uint64_t kTableMagic = 0x3130'5941'4c50'4552;  // "REPLAY01"
constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kBucket = 32;

// A cell: | fingerprint 38 | struck 1 | confirmed 1 | expiry 24 |, 0 = free. A fingerprint is never 0. In every state a
// live cell is remembered; the two bits only settle simultaneous claims.
constexpr std::uint64_t kExpiryMask = 0xFFFFFF;
constexpr std::uint64_t kConfirmed = std::uint64_t{1} << 24;
constexpr std::uint64_t kStruck = std::uint64_t{1} << 25;
constexpr unsigned kFingerprintBits = 38;
constexpr unsigned kFingerprintShift = 64 - kFingerprintBits;
constexpr std::uint64_t kFingerprintMask = (std::uint64_t{1} << kFingerprintBits) - 1;

/// Expiries wrap after 194 days of uptime, so only what ends within the longest ttl counts as live.
bool live(std::uint64_t cell, std::uint32_t now) {
  const std::uint64_t left = (cell - now) & kExpiryMask;
  return cell != 0 && left != 0 && left <= ReplayTable::kMaxTtl;
}
std::uint64_t fingerprint_of(std::uint64_t cell) { return cell >> kFingerprintShift; }

std::unexpected<Error> failure(Errc code, std::string what) {
  return std::unexpected(Error{code, std::move(what), "replay table"});
}

}  // namespace

struct ReplayTable::Page {
  std::uint64_t magic;
  std::uint64_t entries;
  std::uint8_t key[16];
  alignas(64) Cell fresh;
  Cell replays;
  Cell full;
};

void ReplayTable::MacFree::operator()(void* ctx) const noexcept { EVP_MAC_CTX_free(static_cast<EVP_MAC_CTX*>(ctx)); }

Result<ReplayTable> ReplayTable::create(std::size_t entries) {
  if (!std::has_single_bit(entries) || entries < kBucket) return failure(Errc::config, "entries: not a power of two");
  auto fd = make_shared("ebb-replay", kPageBytes + entries * sizeof(Cell));
  if (!fd) return std::unexpected(std::move(fd.error()).in("replay table"));
  auto mapping = map_shared(fd->get());
  if (!mapping) return std::unexpected(std::move(mapping.error()).in("replay table"));
  auto* page = static_cast<Page*>(mapping->data());
  page->entries = entries;
  if (::getrandom(page->key, sizeof page->key, 0) != sizeof page->key) return failure(Errc::os, "getrandom");
  page->magic = kTableMagic;
  return attach(std::move(*fd));
}

Result<ReplayTable> ReplayTable::attach(Fd fd) {
  auto mapping = map_shared(fd.get());
  if (!mapping) return std::unexpected(std::move(mapping.error()).in("replay table"));
  static_assert(sizeof(Page) <= kPageBytes);
  ReplayTable table;
  table.fd_ = std::move(fd);
  table.mapping_ = std::move(*mapping);
  const std::size_t size = table.mapping_.size();
  if (size < kPageBytes + kBucket * sizeof(Cell) || table.page().magic != kTableMagic ||
      !std::has_single_bit(table.page().entries) || size - kPageBytes != table.page().entries * sizeof(Cell)) {
    return failure(Errc::protocol, "not a replay table of this version");
  }
  table.buckets_ = table.page().entries / kBucket;

  EVP_MAC* mac = EVP_MAC_fetch(nullptr, "SIPHASH", nullptr);
  table.mac_.reset(mac != nullptr ? EVP_MAC_CTX_new(mac) : nullptr);
  EVP_MAC_free(mac);  // the context holds its own reference
  unsigned size_bytes = 8;
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_uint(OSSL_MAC_PARAM_SIZE, &size_bytes), OSSL_PARAM_construct_end()};
  auto* ctx = static_cast<EVP_MAC_CTX*>(table.mac_.get());
  if (ctx == nullptr || EVP_MAC_init(ctx, table.page().key, sizeof table.page().key, params) != 1) {
    return failure(Errc::os, "SipHash is not available");
  }
  return table;
}

ReplayTable::Place ReplayTable::locate(ReplayKind kind, ConstSpan bytes) const {
  const std::uint8_t kind_byte = static_cast<std::uint8_t>(kind);
  std::uint8_t digest[8];
  std::size_t length = 0;
  const std::unique_ptr<void, MacFree> copy(EVP_MAC_CTX_dup(static_cast<const EVP_MAC_CTX*>(mac_.get())));
  auto* ctx = static_cast<EVP_MAC_CTX*>(copy.get());
  const bool ok = ctx != nullptr && EVP_MAC_update(ctx, &kind_byte, 1) == 1 &&
                  EVP_MAC_update(ctx, bytes.data(), bytes.size()) == 1 &&
                  EVP_MAC_final(ctx, digest, &length, sizeof digest) == 1 && length == sizeof digest;
  assert(ok);  // only memory can fail; a constant hash would refuse everybody for ever
  const std::uint64_t hash = load_be64(digest);
  auto* cells = std::launder(reinterpret_cast<Cell*>(static_cast<std::uint8_t*>(mapping_.data()) + kPageBytes));
  const std::uint64_t fingerprint = std::max<std::uint64_t>(hash & kFingerprintMask, 1);
  return {fingerprint, cells + (hash >> kFingerprintBits) % buckets_ * kBucket};
}

ReplayVerdict ReplayTable::claim(const Place& place, std::uint32_t ttl, std::uint32_t now, std::size_t& index) {
  const std::uint64_t mine =
      place.fingerprint << kFingerprintShift | ((now + std::clamp(ttl, std::uint32_t{1}, kMaxTtl)) & kExpiryMask);
  // A lost race means that another one has made progress in this bucket; there are at most kBucket such cells to lose.
  for (std::size_t tries = 0; tries <= kBucket; ++tries) {
    std::size_t free = kBucket;
    std::uint64_t old = 0;
    for (std::size_t i = 0; i < kBucket; ++i) {
      const std::uint64_t cell = place.bucket[i].load();
      if (!live(cell, now)) {
        if (free == kBucket) free = i, old = cell;
      } else if (fingerprint_of(cell) == place.fingerprint) {
        return ReplayVerdict::replay;
      }
    }
    if (free == kBucket) return ReplayVerdict::full;
    if (place.bucket[free].compare_exchange_strong(old, mine)) {
      index = free;
      return ReplayVerdict::fresh;
    }
  }
  return ReplayVerdict::full;
}

/// Equal claims of the same instant: the lowest index wins, by striking the others before they confirm themselves.
/// Whoever sees a lower one, or a confirmed one, was not first. Of two claims the later one's scan always sees the
/// other (nothing leaves the table before it expires), so never do both win, and the lowest loses only to a confirmed
/// one. A process killed in between leaves an unconfirmed cell, which is remembered like any other.
ReplayVerdict ReplayTable::settle(const Place& place, std::uint32_t now, std::size_t index) {
  for (std::size_t i = 0; i < kBucket; ++i) {
    std::uint64_t cell = place.bucket[i].load();
    if (i == index || fingerprint_of(cell) != place.fingerprint || !live(cell, now) || cell & kStruck) continue;
    if (i < index || cell & kConfirmed) return ReplayVerdict::replay;
    if (!place.bucket[i].compare_exchange_strong(cell, cell | kStruck) && cell & kConfirmed) {
      return ReplayVerdict::replay;  // it was quicker
    }
  }
  std::uint64_t mine = place.bucket[index].load();
  const bool ours = fingerprint_of(mine) == place.fingerprint && (mine & (kStruck | kConfirmed)) == 0;
  return ours && place.bucket[index].compare_exchange_strong(mine, mine | kConfirmed) ? ReplayVerdict::fresh
                                                                                      : ReplayVerdict::replay;
}

ReplayVerdict ReplayTable::insert(ReplayKind kind, ConstSpan bytes, std::uint32_t ttl, std::uint32_t now) {
  const Place place = locate(kind, bytes);
  std::size_t index = 0;
  ReplayVerdict verdict = claim(place, ttl, now, index);
  if (verdict == ReplayVerdict::fresh) verdict = settle(place, now, index);
  switch (verdict) {
    case ReplayVerdict::fresh: page().fresh.fetch_add(1, std::memory_order_relaxed); break;
    case ReplayVerdict::replay: page().replays.fetch_add(1, std::memory_order_relaxed); break;
    case ReplayVerdict::full: page().full.fetch_add(1, std::memory_order_relaxed); break;
  }
  return verdict;
}

bool ReplayTable::contains(ReplayKind kind, ConstSpan bytes, std::uint32_t now) const {
  const Place place = locate(kind, bytes);
  return std::any_of(place.bucket, place.bucket + kBucket, [&](const Cell& cell) {
    const std::uint64_t value = cell.load();
    return fingerprint_of(value) == place.fingerprint && live(value, now);
  });
}

ReplayTable::Counts ReplayTable::counts() const {
  return {page().fresh.load(), page().replays.load(), page().full.load()};
}

std::uint32_t ReplayTable::boot_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::uint32_t>(now.tv_sec);
}

}  // namespace ebb::ipc
