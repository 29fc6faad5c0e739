#include "worker/layers/stack.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <utility>

namespace ebb::layers {
namespace {

constexpr std::size_t kMaxParts = 16;  // a longer scatter is sealed as several messages

}  // namespace

void Stack::push(std::unique_ptr<Layer> layer, Bytes unread) {
  unread_ = unread_ || !unread.empty();
  may_owe_ = true;
  Slot& slot = slots_.emplace_back();
  slot.layer = std::move(layer);
  slot.kept = std::move(unread);
  // A message of the top is one message of every layer below, so it must fit the narrowest.
  std::size_t overhead = 0;
  std::size_t kept = 0;
  max_payload_ = kMaxRoom;
  for (std::size_t i = slots_.size(); i-- > 0;) {
    const Layer& each = *slots_[i].layer;
    assert(each.max_payload() > overhead);
    max_payload_ = std::min(max_payload_, each.max_payload() - overhead);
    overhead += each.max_head() + each.max_tail();
    kept += each.max_kept();
  }
  assert(kept <= kFrontRoom && overhead + Layer::kMaxSpeech < kMaxRoom);
  max_payload_ = std::min(max_payload_, kMaxRoom - overhead);
}

// --- what comes ------------------------------------------------------------------------------------------------------

Decoded<bool> Stack::open(MutSpan buffer, std::size_t at, Sink& sink) {
  enough_ = false;
  may_owe_ = true;
  if (unread_) {
    unread_ = false;
    if (const auto opened = open_unread(buffer, at, sink); !opened) return std::unexpected{opened.error()};
  }
  if (const auto opened = feed(0, buffer.subspan(at), sink); !opened) return std::unexpected{opened.error()};
  return settle();
}

/// What came with push(), from the top down: the upper bytes are the older ones.
Decoded<> Stack::open_unread(MutSpan buffer, std::size_t at, Sink& sink) {
  for (std::size_t level = slots_.size(); level-- > 1;) {
    Slot& slot = slots_[level];
    if (slot.kept.empty() || enough_) continue;
    assert(slot.kept.size() <= at);
    if (const auto opened = feed(level, buffer.subspan(at, 0), sink); !opened) return opened;
    if (const auto settled = settle(); !settled) return std::unexpected{settled.error()};
  }
  return {};
}

/// Opens what lies in `piece` and behind it, and hands it on upwards.
Decoded<> Stack::feed(std::size_t level, MutSpan piece, Sink& sink) {
  Slot& slot = slots_[level];
  if (slot.ended) return {};
  MutSpan data = join(slot, piece);
  const bool top = level + 1 == slots_.size();
  while (!data.empty()) {
    const auto opened = slot.layer->open(data);
    if (!opened) return std::unexpected{opened.error()};
    data = data.subspan(opened->used);
    if (!opened->plain.empty()) {
      if (!top) {
        if (const auto upper = feed(level + 1, opened->plain, sink); !upper) return upper;
      } else if (!sink.on_plain(opened->plain)) {
        enough_ = true;
      }
      if (enough_) return {};
    }
    if (opened->end) {
      slot.ended = true;
      return {};
    }
    if (opened->used == 0) break;
  }
  if (data.size() > slot.layer->max_kept()) return std::unexpected{WireError{WireFault::bad_length, 0}};
  slot.rest = data;
  return {};
}

/// A message cut by the end of a piece is moved to the front of the next one, so that messages are always contiguous.
/// What lies between has been used up: plaintext that was handed on lies in front of the cut message.
MutSpan Stack::join(Slot& slot, MutSpan piece) {
  const ConstSpan rest = slot.kept.empty() ? ConstSpan(slot.rest) : ConstSpan(slot.kept);
  if (rest.empty()) return piece;
  std::uint8_t* const begin = piece.data() - rest.size();
  std::memmove(begin, rest.data(), rest.size());
  const MutSpan joined(begin, rest.size() + piece.size());
  slot.kept.clear();
  slot.rest = {};
  return joined;
}

/// The buffer belongs to somebody else afterwards: keeps what has to be seen again. True: some layer's peer finished.
Decoded<bool> Stack::settle() {
  bool ended = false;
  for (Slot& slot : slots_) {
    if (ended && (!slot.rest.empty() || !slot.kept.empty() || !(slot.ended || slot.layer->eof_is_clean())))
      return std::unexpected{WireError{WireFault::truncated, 0}};
    ended = ended || slot.ended;
    if (!slot.rest.empty()) {
      slot.kept.assign(slot.rest.begin(), slot.rest.end());
    } else if (slot.kept.empty() && slot.kept.capacity() > 0) {
      slot.kept = {};  // idle connections own no buffer
    }
    slot.rest = {};
  }
  return ended;
}

bool Stack::eof_is_clean() const {
  return std::ranges::any_of(slots_, &Slot::ended) ||
         std::ranges::all_of(slots_, [](const Slot& slot) { return slot.kept.empty() && slot.layer->eof_is_clean(); });
}

// --- what goes -------------------------------------------------------------------------------------------------------

/// Room for a message of `level`, `bytes` long, as the layers below will seal it.
Stack::Room Stack::room_below(std::size_t level, std::size_t bytes) const {
  Room room{0, bytes};
  while (level-- > 0) {
    const Layer& layer = *slots_[level].layer;
    const std::size_t head = layer.head(room.bytes);
    room.front += head;
    room.bytes += head + layer.max_tail();
  }
  return room;
}

/// Seals a message of `level`, which lies in `out`, with the layers below it; returns its bytes, at the front of `out`.
std::size_t Stack::lower(std::size_t level, MutSpan message, MutSpan out) {
  while (level-- > 0 && !message.empty()) {
    const ConstSpan part = message;
    message = slots_[level].layer->seal({&part, 1}, out, static_cast<std::size_t>(message.data() - out.data()));
  }
  // Only where a head came out shorter than it could have, which takes a message about as short.
  if (message.data() != out.data()) std::memmove(out.data(), message.data(), message.size());
  return message.size();
}

void Stack::seal_one(std::span<const ConstSpan> parts, std::size_t bytes, Outlet& outlet) {
  const std::size_t top = slots_.size() - 1;
  const Room room = room_below(slots_.size(), bytes);
  const MutSpan out = outlet.room(room.bytes);
  outlet.commit(lower(top, slots_[top].layer->seal(parts, out, room.front), out));
}

void Stack::seal(std::span<const ConstSpan> parts, Outlet& outlet) {
  if (may_owe_) speak(outlet);
  std::array<ConstSpan, kMaxParts> message;
  std::size_t count = 0;
  std::size_t bytes = 0;
  for (ConstSpan part : parts) {
    while (!part.empty()) {
      const ConstSpan piece = part.first(std::min(part.size(), max_payload_ - bytes));
      message[count++] = piece;
      bytes += piece.size();
      part = part.subspan(piece.size());
      if (bytes < max_payload_ && count < kMaxParts) continue;
      seal_one(std::span(message).first(count), bytes, outlet);
      count = bytes = 0;
    }
  }
  if (count > 0) seal_one(std::span(message).first(count), bytes, outlet);
}

/// From the bottom up: what an upper layer says passes through the lower ones, who may have to speak first.
void Stack::speak(Outlet& outlet) {
  may_owe_ = false;
  for (std::size_t level = 0; level < slots_.size(); ++level) {
    Layer& layer = *slots_[level].layer;
    const std::size_t bytes = layer.owes();
    if (bytes == 0) continue;
    assert(bytes <= Layer::kMaxSpeech);
    const Room room = room_below(level, bytes);
    const MutSpan out = outlet.room(room.bytes);
    const MutSpan space = out.subspan(room.front, bytes);
    outlet.commit(lower(level, space.first(layer.speak(space)), out));
  }
}

void Stack::seal_end(Outlet& outlet) {
  if (may_owe_) speak(outlet);
  for (std::size_t level = slots_.size(); level-- > 0;) {
    const Room room = room_below(level, Layer::kMaxEnd);
    const MutSpan out = outlet.room(room.bytes);
    const MutSpan space = out.subspan(room.front, Layer::kMaxEnd);
    outlet.commit(lower(level, space.first(slots_[level].layer->seal_end(space)), out));
  }
}

bool Stack::half_closes() const {
  return std::ranges::all_of(slots_, [](const Slot& slot) { return slot.layer->half_closes(); });
}

std::expected<StackState, Stays> Stack::save() const {
  StackState out;
  bool now = true;
  for (const Slot& slot : slots_) {
    auto saved = slot.layer->save();
    if (!saved && saved.error() == Stays::never) return std::unexpected{Stays::never};
    now = now && saved && !slot.ended;
    if (saved) out.levels.push_back({std::move(*saved), slot.kept});
  }
  if (!now) return std::unexpected{Stays::not_now};
  return out;
}

}  // namespace ebb::layers
