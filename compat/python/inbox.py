"""What one or more members of a group were given, in the order they were given it."""

import threading
import time
from collections import Counter, namedtuple

Delivery = namedtuple(
    "Delivery", "key topic id queue queue_offset reconsume_times tags keys property store_ms at member"
)

NAMED_MAX = 8  # how many keys a failure names


class Failure(Exception):
    """What a case found to be otherwise than it should be."""


def require(holds, text):
    if not holds:
        raise Failure(text)


def named(keys):
    some = sorted(keys)
    return ", ".join(some[:NAMED_MAX]) + (", ..." if len(some) > NAMED_MAX else "")


class Inbox:
    def __init__(self):
        self.changed = threading.Condition(threading.RLock())
        self.deliveries = []

    def listener(self, member="", fails=lambda delivery: False):
        """A listener that keeps a copy: the client's message is gone when the listener returns."""

        def listen(message):
            delivery = Delivery(
                key=message.body.decode("utf-8"),
                topic=message.topic,
                id=message.id,
                queue=message.queue_id,
                queue_offset=message.queue_offset,
                reconsume_times=message.reconsume_times,
                tags=message.tags.decode("utf-8"),
                keys=message.keys.decode("utf-8"),
                property=(message.get_property("number") or b"").decode("utf-8"),
                store_ms=message.store_timestamp,
                at=time.time(),
                member=member,
            )
            with self.changed:
                self.deliveries.append(delivery)
                self.changed.notify_all()
            if fails(delivery):
                raise RuntimeError("to be given again")

        return listen

    def all(self):
        with self.changed:
            return list(self.deliveries)

    def of(self, key):
        return [d for d in self.all() if d.key == key]

    def times(self):
        return Counter(d.key for d in self.all())

    def again(self):
        """How many deliveries were not the first of their message."""
        return len(self.all()) - len(self.times())

    def await_that(self, seconds, condition):
        """Waits for a condition that depends on what arrived; false when the time is over first."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self.changed.wait(left)
        return True

    def missing(self, wanted):
        with self.changed:
            there = {d.key for d in self.deliveries}
        return [key for key in wanted if key not in there]

    def await_keys(self, wanted, seconds):
        self.await_that(seconds, lambda: not self.missing(wanted))
        missing = self.missing(wanted)
        require(not missing, f"{len(missing)} of {len(wanted)} messages did not arrive within {seconds} s: {named(missing)}")

    def require_exactly(self, wanted):
        """Requires that what arrived is these keys, each once."""
        times = self.times()
        foreign = set(times) - set(wanted)
        require(not foreign, f"{len(foreign)} messages that should not arrive did: {named(foreign)}")
        repeated = [f"{key} x{n}" for key, n in times.items() if n > 1]
        require(not repeated, f"{len(repeated)} messages arrived more than once: {named(repeated)}")
        require(len(times) == len(set(wanted)), f"{len(times)} messages of {len(set(wanted))} arrived")
