// The layers of one connection, bottom first, and what each of them has yet to see again. Sans-IO.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "worker/layers/layer.h"

namespace ebb::layers {

/// Where opened bytes go.
class Sink {
 public:
  /// Valid until the next open() of the stack. False: nothing more is wanted, drop the rest.
  virtual bool on_plain(MutSpan bytes) = 0;

 protected:
  ~Sink() = default;
};

/// Where sealed bytes go.
class Outlet {
 public:
  /// Contiguous room for `bytes` (at most Stack::kMaxRoom); commit() says how many of them, from the front, were used.
  virtual MutSpan room(std::size_t bytes) = 0;
  virtual void commit(std::size_t bytes) = 0;

 protected:
  ~Outlet() = default;
};

/// A stack that travels: the layers' states, bottom first, each with the bytes it has received and not opened.
struct StackState {
  struct Level {
    LayerState layer;
    Bytes unread;
    friend bool operator==(const Level&, const Level&) = default;
  };
  std::vector<Level> levels;
  friend bool operator==(const StackState&, const StackState&) = default;
};

class Stack {
 public:
  /// An outlet must have this much contiguous room, and a reader's buffer so much in front of what it reads.
  static constexpr std::size_t kMaxRoom = std::size_t{66} * 1024;
  static constexpr std::size_t kFrontRoom = std::size_t{144} * 1024;

  Stack() = default;
  explicit Stack(std::unique_ptr<Layer> layer) { push(std::move(layer)); }
  Stack(Stack&&) = default;
  Stack& operator=(Stack&&) = default;

  /// Lays one on top. `unread`: bytes for it that those below have opened already. What the layers keep back must fit
  /// kFrontRoom in all.
  void push(std::unique_ptr<Layer> layer, Bytes unread = {});
  /// No protocol at all: bytes pass without coming here.
  bool empty() const { return slots_.empty(); }
  std::size_t size() const { return slots_.size(); }

  // ---- what comes
  /// Opens buffer[at..), which follows what was given before; everything in front of it is free for use, kFrontRoom
  /// bytes at least. True: the peer finished, what followed was ignored. Errors are final.
  Decoded<bool> open(MutSpan buffer, std::size_t at, Sink& sink);
  /// Bytes wait that can be opened without new ones: call open() with none soon.
  bool has_unread() const { return unread_; }
  /// Whether an end of the transport right here is an ordinary end.
  bool eof_is_clean() const;

  // ---- what goes
  /// Payload bytes of one sealed message.
  std::size_t max_payload() const { return max_payload_; }
  /// Seals the concatenation of `parts`, in as many messages as it takes, behind what has to be said first.
  void seal(std::span<const ConstSpan> parts, Outlet& outlet);
  /// Lets the layers say what they owe. To be called at the start, and after open().
  void speak(Outlet& outlet);
  /// The end marks of our direction. Nothing may be sealed afterwards.
  void seal_end(Outlet& outlet);
  /// Whether the transport's half-close belongs to that end.
  bool half_closes() const;

  /// Everything there is to go on elsewhere, between two open().
  std::expected<StackState, Stays> save() const;

 private:
  struct Slot {
    std::unique_ptr<Layer> layer;
    Bytes kept;          // from an earlier open(): less than one message
    MutSpan rest;        // the same within one open(): lies in the buffer
    bool ended = false;  // the peer finished at this level
  };
  struct Room {
    std::size_t front = 0;  // where the payload comes to lie
    std::size_t bytes = 0;  // in all
  };

  Decoded<> feed(std::size_t level, MutSpan piece, Sink& sink);
  MutSpan join(Slot& slot, MutSpan piece);
  Decoded<> open_unread(MutSpan buffer, std::size_t at, Sink& sink);
  Decoded<bool> settle();
  void seal_one(std::span<const ConstSpan> parts, std::size_t bytes, Outlet& outlet);
  Room room_below(std::size_t level, std::size_t bytes) const;
  std::size_t lower(std::size_t level, MutSpan message, MutSpan out);

  std::vector<Slot> slots_;
  std::size_t max_payload_ = 0;
  bool may_owe_ = false;  // a layer may have something to say
  bool unread_ = false;   // bytes came with push()
  bool enough_ = false;   // the sink wants no more of this open()
};

}  // namespace ebb::layers
