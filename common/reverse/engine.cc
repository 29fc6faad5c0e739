#include "common/reverse/engine.h"

#include <algorithm>

namespace ebb::reverse {

std::size_t Engine::write_abort(MutSpan out, StreamId stream, const Abort& why) const {
  if (!tells_reasons()) {
    mux::write_end(out, stream, true);
    return mux::kEndFrame;
  }
  const Bytes said = encode_abort(why);
  mux::write_abort_head(out, stream, said.size());
  std::ranges::copy(said, out.begin() + mux::kKeepHead);
  return mux::kKeepHead + said.size();
}

}  // namespace ebb::reverse
