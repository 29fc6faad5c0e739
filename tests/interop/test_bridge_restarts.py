"""A bridge is killed and started again, ours and stock ones: the first success comes within a second of the moment from
which it can dial, and no visitor fails after it."""

import time
import unittest

from ebbtest import carriage, case, visitors, wait


@case.beyond_v2ray
class Ours(carriage.Story):
    first_s = 1.0
    rounds = 3

    def test_killed_and_started_again(self):
        self.start_pair()
        took = []
        for _ in range(self.rounds):
            self.open_echo(self.public).exchange()
            self.bridge.kill()
            self.bridge.start()
            up = time.monotonic()
            wait.until("the first success", lambda: visitors.fetches(self.public, 6),
                       10, step=0.01)
            took.append(time.monotonic() - up)
            for number in range(40):
                visitors.fetch(self.public, 5)  # an error here is the failure: nobody fails after the first success
        # From the start of the process, so with its own loading, which takes longer where others work too.
        self.measured("the first success after the start", took, self.first_s, self.first_s + case.SLACK_S)


class Stock(Ours):
    bridge_kind = "v2ray"


class V2fly(Ours):
    bridge_kind = "v2fly"


class Xray(Ours):
    bridge_kind = "xray"


if __name__ == "__main__":
    unittest.main()
