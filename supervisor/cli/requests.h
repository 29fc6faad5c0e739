// What the commands of the admin socket do to a running service. spec/processes.md 11.2.
#pragma once

#include "supervisor/admin/server.h"
#include "supervisor/generations/runner.h"

namespace ebb::supervisor {

/// `runner` must outlive every conversation.
admin::Server::Handler admin_handler(Runner& runner);

}  // namespace ebb::supervisor
