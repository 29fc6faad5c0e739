#include "common/reverse/control.h"

#include <algorithm>
#include <limits>

namespace ebb::reverse {
namespace {

constexpr std::uint32_t kState = 1, kRandom = 99, kHello = 1000, kWindow = 1001, kPing = 1002, kNotice = 1003;
enum WireType : std::uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

// --- writing ---------------------------------------------------------------------------------------------------

void put_varint(Bytes& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<std::uint8_t>(value | 0x80));
  out.push_back(static_cast<std::uint8_t>(value));
}
void put_number(Bytes& out, std::uint32_t field, std::uint64_t value) {
  if (value == 0) return;
  put_varint(out, field << 3 | varint);
  put_varint(out, value);
}
void put_bytes(Bytes& out, std::uint32_t field, ConstSpan value) {
  put_varint(out, field << 3 | bytes);
  put_varint(out, value.size());
  out.insert(out.end(), value.begin(), value.end());
}
void put_fixed64(Bytes& out, std::uint32_t field, std::uint64_t value) {
  if (value == 0) return;
  put_varint(out, field << 3 | fixed64);
  for (int shift = 0; shift < 64; shift += 8) out.push_back(static_cast<std::uint8_t>(value >> shift));
}

Bytes encode_hello(const Hello& hello) {
  Bytes out;
  put_number(out, 1, hello.version);
  put_number(out, 2, hello.features);
  put_number(out, 3, hello.initial_window);
  put_number(out, 4, hello.max_data);
  put_bytes(out, 5, hello.node_id);
  put_number(out, 7, hello.weight);
  put_number(out, 8, hello.max_datagram);
  return out;
}

// --- reading ---------------------------------------------------------------------------------------------------

struct Field {
  std::uint32_t number = 0;
  std::uint32_t type = 0;
  std::uint64_t value = 0;  // varint and fixed types
  ConstSpan bytes;
};

/// Walks the fields of one message. Offsets in errors count from the message's first byte.
class Reader {
 public:
  explicit Reader(ConstSpan in) : in_(in) {}
  bool done() const { return at_ == in_.size(); }

  Decoded<Field> next() {
    const auto tag = number();
    if (!tag) return std::unexpected{tag.error()};
    Field field;
    field.type = static_cast<std::uint32_t>(*tag & 7);
    if (*tag >> 3 == 0 || *tag >> 3 > 0x1fffffff) return bad(WireFault::bad_command);
    field.number = static_cast<std::uint32_t>(*tag >> 3);
    std::size_t size = 0;
    switch (field.type) {
      case varint: {
        const auto value = number();
        if (!value) return std::unexpected{value.error()};
        field.value = *value;
        return field;
      }
      case fixed64: size = 8; break;
      case fixed32: size = 4; break;
      case bytes: {
        const auto length = number();
        if (!length) return std::unexpected{length.error()};
        if (*length > in_.size() - at_) return bad(WireFault::bad_length);
        size = static_cast<std::size_t>(*length);
        break;
      }
      default: return bad(WireFault::bad_command);
    }
    if (size > in_.size() - at_) return bad(WireFault::bad_length);
    field.bytes = in_.subspan(at_, size);
    at_ += size;
    if (field.type != bytes) {
      for (std::size_t i = 0; i < size; ++i) field.value |= std::uint64_t{field.bytes[i]} << (8 * i);
    }
    return field;
  }

 private:
  std::unexpected<WireError> bad(WireFault fault) const {
    return std::unexpected{WireError{fault, static_cast<std::uint32_t>(at_)}};
  }
  Decoded<std::uint64_t> number() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (done()) return bad(WireFault::bad_length);
      const std::uint64_t byte = in_[at_++];
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return bad(WireFault::bad_length);
  }

  ConstSpan in_;
  std::size_t at_ = 0;
};

std::uint32_t clip32(std::uint64_t value) {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(value, std::numeric_limits<std::uint32_t>::max()));
}

/// Calls `take(field)` for every field of `in`.
template <class Take>
Decoded<> each_field(ConstSpan in, Take take) {
  Reader reader(in);
  while (!reader.done()) {
    const auto field = reader.next();
    if (!field) return std::unexpected{field.error()};
    if (Decoded<> taken = take(*field); !taken) return taken;
  }
  return {};
}

Decoded<> read_hello(ConstSpan in, Hello& out) {
  out = Hello{.features = 0};
  out.version = 0;
  return each_field(in, [&out](const Field& f) -> Decoded<> {
    if (f.type == varint) {
      switch (f.number) {
        case 1: out.version = clip32(f.value); break;
        case 2: out.features = f.value; break;
        case 3: out.initial_window = clip32(f.value); break;
        case 4: out.max_data = clip32(f.value); break;
        case 7: out.weight = clip32(f.value); break;
        case 8: out.max_datagram = clip32(f.value); break;
        default: break;
      }
    } else if (f.type == bytes && f.number == 5) {
      if (f.bytes.size() == out.node_id.size()) std::ranges::copy(f.bytes, out.node_id.begin());
    }
    return {};
  });
}

Decoded<> read_window(ConstSpan in, Window& out) {
  return each_field(in, [&out](const Field& f) -> Decoded<> {
    if (f.type == varint && f.number == 1) out.session = clip32(f.value);
    if (f.type == varint && f.number == 2) out.add = f.value;
    return {};
  });
}

Decoded<> read_ping(ConstSpan in, Ping& out) {
  return each_field(in, [&out](const Field& f) -> Decoded<> {
    if (f.type == fixed64 && f.number == 1) out.id = f.value;
    if (f.type == varint && f.number == 2) out.reply = f.value != 0;
    return {};
  });
}

Decoded<> read_notice(ConstSpan in, Notice& out) {
  return each_field(in, [&out](const Field& f) -> Decoded<> {
    if (f.type == varint && f.number == 1) out.code = clip32(f.value);
    if (f.type == bytes && f.number == 2) out.text = std::string(as_text(f.bytes));
    if (f.type == varint && f.number == 3) out.retry_after_ms = clip32(f.value);
    return {};
  });
}

}  // namespace

Bytes encode_control(const Control& message) {
  Bytes out;
  put_number(out, kState, message.state);
  if (!message.random.empty()) put_bytes(out, kRandom, message.random);
  if (message.hello) put_bytes(out, kHello, encode_hello(*message.hello));
  for (const auto& window : message.windows) {
    Bytes body;
    put_number(body, 1, window.session);
    put_number(body, 2, window.add);
    put_bytes(out, kWindow, body);
  }
  if (message.ping) {
    Bytes body;
    put_fixed64(body, 1, message.ping->id);
    put_number(body, 2, message.ping->reply ? 1 : 0);
    put_bytes(out, kPing, body);
  }
  if (message.notice) {
    Bytes body;
    put_number(body, 1, message.notice->code);
    if (!message.notice->text.empty()) put_bytes(body, 2, as_bytes(message.notice->text));
    put_number(body, 3, message.notice->retry_after_ms);
    put_bytes(out, kNotice, body);
  }
  return out;
}

Decoded<Control> decode_control(ConstSpan in) {
  if (in.size() > kMaxControl) return std::unexpected{WireError{WireFault::bad_length, 0}};
  Control out;
  const auto walked = each_field(in, [&out](const Field& f) -> Decoded<> {
    if (f.type == varint && f.number == kState) out.state = clip32(f.value);
    if (f.type != bytes) return {};
    switch (f.number) {
      case kRandom: out.random.assign(f.bytes.begin(), f.bytes.end()); return {};
      // Ours, but somebody else may use the numbers for something else: what does not parse is not there.
      case kHello:
        if (!read_hello(f.bytes, out.hello.emplace())) out.hello.reset();
        return {};
      case kWindow:
        if (!read_window(f.bytes, out.windows.emplace_back())) out.windows.pop_back();
        return {};
      case kPing:
        if (!read_ping(f.bytes, out.ping.emplace())) out.ping.reset();
        return {};
      case kNotice:
        if (!read_notice(f.bytes, out.notice.emplace())) out.notice.reset();
        return {};
      default: return {};
    }
  });
  if (!walked) return std::unexpected{walked.error()};
  return out;
}

std::string_view control_name(Dialect dialect) {
  switch (dialect) {
    case Dialect::v2ray: return kControlNameV2ray;
    case Dialect::v2fly: return kControlNameV2fly;
    case Dialect::xray: return kControlNameXray;
  }
  return {};
}

std::string_view name_of(Dialect dialect) {
  switch (dialect) {
    case Dialect::v2ray: return "v2ray";
    case Dialect::v2fly: return "v2fly";
    case Dialect::xray: return "xray";
  }
  return {};
}

bool is_control_name(std::string_view host) {
  return host == kControlNameV2ray || host == kControlNameV2fly || host == kControlNameXray ||
         host == kControlNameOldXray;
}

}  // namespace ebb::reverse
