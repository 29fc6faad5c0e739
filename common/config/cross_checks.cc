#include "common/config/draft.h"

namespace ebb::config {
void cross_check(const Draft&, Report&) {}
}  // namespace ebb::config
