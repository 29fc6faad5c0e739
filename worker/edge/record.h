// What an OFFER says of a connection.
#pragma once

#include "ipc/message.h"
#include "worker/edge/edge.h"

namespace ebb::edge {

/// Who visits, where he arrived, when, through which inbound. Portal, class and role are the caller's to fill in.
ipc::OfferRecord record_of(const Request& request, int fd);

}  // namespace ebb::edge
