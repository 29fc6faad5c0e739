// A connection whose client still has to say who he is and where to. The rest of its life is in session.cc too.
#pragma once

#include <list>
#include <memory>

#include "common/net/conversation.h"
#include "worker/edge/edge.h"

namespace ebb::edge {

/// Whether a connection that names the portal's domain (before any sniffing) is a bridge registering. Either the
/// inbound authenticates; or it is a dokodemo-door that is set to the domain and `source` is this machine. An inbound
/// that lets strangers name the target never is, not even from this machine: a local proxy would put everybody there.
/// `allowUnauthenticated` of the portal drops all that.
bool may_register(const config::Inbound& inbound, const Endpoint& source, const config::Portal& portal);

class Session {
 public:
  /// `from_proxy`: a PROXY header comes first.
  Session(Edge& edge, Request request, std::unique_ptr<net::Stream> stream, bool from_proxy);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void start() { life_.start(); }
  void abort(const Error& why) { client_.abort(why); }
  TimePoint accepted() const { return request_.accepted; }

 private:
  friend class Edge;
  net::Task<bool> live();
  net::Task<Result<>> learn_client();
  void refuse_proxy(const Error& why);
  Client rest_of_client();
  void failed(const Error& why);

  Edge& edge_;
  Request request_;
  const bool from_proxy_;
  net::Conversation client_;
  layers::Stack layers_;  // of a client who was asked
  net::Task<bool> life_;  // behind what it uses
  std::list<std::unique_ptr<Session>>::iterator place_;
};

}  // namespace ebb::edge
