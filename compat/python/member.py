"""A group member in a process of its own, for the case that kills it. It runs until its input ends."""

import sys

from fixture import push_consumer

STARTED = "member started"


def run(name_servers, group, topic):
    consumer = push_consumer(name_servers, group, "member", topic, lambda message: None)
    consumer.start()
    print(STARTED, flush=True)
    sys.stdin.read(1)
    return 0
