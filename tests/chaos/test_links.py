"""Messages that break the handoff protocol, on one link after the other, under load: T29."""

import contextlib
import os
import signal
import time
import unittest

from ebbtest import wait

from . import actions, evidence, links, scenario


class T29MalformedMessages(scenario.Scenario):
    """The reader closes that link with FAULT, the worker gets another one, nobody else notices. Whoever was offered on
    the link and not TAKEn is offered again when the broker found the fault; when the worker did, nobody may know whose
    he is, so he alone may be lost."""

    limit_s = 300

    def setUp(self):
        super().setUp()
        if why := links.possible():
            raise unittest.SkipTest(why)
        self.at_risk: set[str] = set()  # offered and not TAKEn on a link that its worker closed
        self.judging: list[float] = []  # when such workers went on: they may offer more before they read the message

    def test_of_a_worker(self):
        self.attack([(*case, "broker") for case in links.FROM_WORKER] + [(*links.LOST_DESCRIPTOR, "edge")], "worker")

    def test_of_a_broker(self):
        self.attack([(*case, "edge") for case in links.FROM_BROKER], "broker")

    # ---- what it is made of ----
    def attack(self, cases, sender: str) -> None:
        self.start_stack()
        it = self.load(2000, seconds=max(self.seconds, 0.35 * len(cases) + 1))
        for number, (what, message, fault, judge) in enumerate(cases):
            self.assertTrue(it.going_on(), "the load ended before the last case")
            try:
                self.one(number, message, fault, sender, judge)
            except AssertionError as failed:
                raise AssertionError(f"{what}: {failed}") from None
        self.note(f"{len(cases)} kinds of message, {len(self.at_risk)} connections might have been lost")

        def allowed(failure) -> bool:
            ended = (failure["started_us"] + failure["took_us"]) / 1e6
            then = any(0 <= ended - at < 0.05 for at in self.judging)
            return failure["kind"] in ("reset", "early_end") and (failure["source"] in self.at_risk or then)
        self.expect(it, lost=allowed)
        self.finish()

    def one(self, number: int, message: links.Message, fault: str, sender: str, judge: str) -> None:
        """One message on one link, and what has to come of it."""
        before = self.whole()
        victim = before[number % len(before)]
        mark = len(self.portal.log())
        with self.both_stand_still(victim, sender) as (end, last):
            if judge == "edge":
                self.at_risk |= evidence.peers_held_by([victim.worker])
            message.send(end, last)
            if judge == "edge":
                self.judging.append(time.monotonic())
        told = "a worker broke the handoff protocol" if judge == "broker" else "was closed after a fault"
        wait.until(f"the log names \"{fault}\"\n{self.portal.tail()}",
                   lambda: any(told in line and fault in line for line in self.portal.log()[mark:].splitlines()), 5)
        after = self.whole()
        alive = {it.inode for it in after}
        self.assertNotIn(victim.inode, alive)
        self.assertEqual({it.inode for it in before if it.worker != victim.worker} - alive, set(), "another link is gone")

    def whole(self) -> list[links.Link]:
        """The links, one of each worker, when all are there."""
        def all_there():
            workers = self.portal.role("worker")
            found = links.between(workers, self.portal.broker())
            return found if {it.worker for it in found} == set(workers) and len(workers) == self.workers else None
        return wait.until(f"every worker has a link to the broker\n{self.portal.tail()}", all_there, 5, step=0.01)

    @contextlib.contextmanager
    def both_stand_still(self, link: links.Link, sender: str):
        """Between two messages of this direction: the sender's end, and the last message that it has sent. Under load
        offers come to a frozen broker; awake for a moment it answers them, and a frozen worker does not read that."""
        with link.end_of(link.worker) as worker, link.end_of(link.broker) as broker:
            end, inbox = (worker, broker) if sender == "worker" else (broker, worker)
            try:
                actions.freeze(link.broker)
                wait.until("an offer waits", lambda: links.OFFER in map(links.type_of, links.waiting(broker)), 5, step=0.001)
                actions.freeze(link.worker)
                if sender == "broker":
                    os.kill(link.broker, signal.SIGCONT)
                    wait.until("an answer waits", lambda: links.waiting(worker), 5, step=0.001)
                    actions.freeze(link.broker)
                yield end, links.waiting(inbox)[-1]
            finally:
                for pid in (link.worker, link.broker):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
