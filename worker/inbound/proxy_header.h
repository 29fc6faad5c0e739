// The PROXY header of a proxy that stands in front of us, before anything else of a connection.
#pragma once

#include "common/base/address.h"
#include "common/base/result.h"
#include "common/base/time.h"
#include "common/net/conversation.h"
#include "common/net/task.h"

namespace ebb::inbound {

/// Reads the header; what follows it stays in the conversation. Empty where the proxy speaks for itself (a health
/// check): the socket's own addresses hold then. After an error close the connection plainly.
/// Errors: protocol (no header, or a broken one), timeout, closed.
net::Task<Result<VisitorAddress>> accept_proxy_header(net::Conversation& client, Duration limit);

}  // namespace ebb::inbound
