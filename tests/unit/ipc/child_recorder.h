// A child that writes down what its supervisor tells it.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ipc/child.h"

namespace ebb::ipc::test {

struct Recorder final : ChildHandler {
  std::vector<std::string> seen;
  Adoptable own;  // what adoptable() answers
  std::optional<DrainOrder> order;
  Result<> verdict;
  std::string needs_restart;

  void on_log(LogKind which, Fd file) override { say("log " + std::to_string(static_cast<int>(which)) + open(file)); }
  Result<> on_shm(ShmKind kind, Fd memfd, std::uint64_t bytes) override {
    say("shm " + std::to_string(static_cast<int>(kind)) + " " + std::to_string(bytes) + open(memfd));
    return {};
  }
  Result<> on_config(std::uint64_t gen, std::string_view snapshot) override {
    say("config " + std::to_string(gen) + " " + std::string(snapshot));
    return verdict;
  }
  void on_slot(const SlotGrant& grant, Fd socket) override { say("slot " + std::to_string(grant.slot) + open(socket)); }
  void on_slot_revoked(std::uint32_t slot) override { say("revoked " + std::to_string(slot)); }
  void on_link(const LinkAdd& link, Fd end) override { say("link " + std::to_string(link.broker_gen) + open(end)); }
  void on_broker_state(const BrokerState& state) override { say("broker " + std::to_string(state.broker_gen)); }
  Result<UpdateVerdict> on_update_prepare(std::uint64_t gen, std::string_view snapshot) override {
    say("prepare " + std::to_string(gen) + " " + std::string(snapshot));
    if (!verdict) return std::unexpected(verdict.error());
    return UpdateVerdict{needs_restart};
  }
  void on_update_commit(std::uint64_t gen) override { say("commit " + std::to_string(gen)); }
  void on_update_abort(std::uint64_t gen) override { say("abort " + std::to_string(gen)); }
  void on_start() override { say("start"); }
  void on_pause() override { say("pause"); }
  void on_drain(const DrainOrder& given) override {
    order = given;
    say("drain");
  }
  std::string on_query(std::string_view request) override {
    say("query " + std::to_string(request.size()));
    return std::string(100'000, 'a');
  }
  Vitals on_ping() override { return {std::chrono::microseconds(7), 8, 9}; }
  void on_broken(const Error& why) override { say("broken: " + why.where + ": " + why.what); }

  void on_orphaned(Duration since) override {
    say("orphaned " + std::to_string(std::chrono::duration_cast<std::chrono::seconds>(since).count()));
  }
  void on_adopter_refused(const Error& why) override { say("refused: " + why.what); }
  Adoptable adoptable() override { return own; }
  void on_adopted() override { say("adopted"); }

  void say(std::string text) { seen.push_back(std::move(text)); }
  static std::string open(const Fd& fd) { return fd ? "" : " without fd"; }
};

}  // namespace ebb::ipc::test
