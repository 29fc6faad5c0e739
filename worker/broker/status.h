// The broker's part of `ebbgate ctl status`.
#pragma once

#include <string>
#include <vector>

#include "ipc/offer_intake.h"
#include "worker/broker/plant.h"

namespace ebb::broker {

/// {"connections":N,"counts":{...},"flows":{...},"udp_sockets":{...},"portals":[...],"bridges":[...]}; `offers`: since
/// the process began.
std::string status_json(const Plant& plant, std::size_t connections, const ipc::OfferIntake::Counts& offers,
                        TimePoint now);

/// {"live":["TAG DOMAIN",...]}
std::string live_json(const std::vector<std::string>& portals);

}  // namespace ebb::broker
