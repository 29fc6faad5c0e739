// The broker's part of `ebbgate ctl status`. Shape: spec/processes.md 11.2.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ipc/offer_intake.h"
#include "worker/bridge/bridge.h"
#include "worker/broker/portal.h"

namespace ebb::broker {

/// {"connections":N,"counts":{...},"portals":[...],"bridges":[...]}; `offers`: since the process began.
std::string status_json(const std::vector<const Portal*>& portals, const std::vector<const bridge::Bridge*>& bridges,
                        std::size_t connections, const ipc::OfferIntake::Counts& offers, TimePoint now);

/// {"live":["TAG DOMAIN",...]}
std::string live_json(const std::vector<std::string>& portals);

}  // namespace ebb::broker
