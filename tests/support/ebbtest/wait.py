"""Waiting for a condition, never for an amount of time."""

import time


def until(what: str, condition, seconds: float, step: float = 0.02):
    """Polls `condition()` until it is truthy and returns it; AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(step)


def holds(what: str, condition, seconds: float, step: float = 0.05) -> None:
    """The opposite: `condition()` must stay truthy for `seconds`; AssertionError naming `what` at once when not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not condition():
            raise AssertionError(f"did not hold for {seconds:g} s: {what}")
        time.sleep(step)
