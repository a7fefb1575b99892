"""The cases by the id of their point. Each has topics and groups of its own, and says what was seen."""

import statistics
import threading
import time

from rocketmq.exceptions import RocketMQException

import admin
from fixture import QUIET, SOON, await_that
from inbox import Inbox, require

QUEUES = 4
# how early a delay may end by the clocks' rounding, and how late on a busy machine, by the broker's time of storing
EARLY_SECONDS_MAX = 1.1
LATE_SECONDS_MAX = 6
LEVEL_SECONDS = (1, 5, 10)
WOKEN_SECONDS_MAX = 0.5  # a held pull that arrival does not wake is looked at again after 5 s
DEAD_SECONDS_MAX = 10  # until a dead letter must be there
HANDED_OVER = 100  # until a lock that was not given back has expired
MOVED = 75  # until the client has the new leader's address: it asks for routes every 30 s
PERSISTED = 6  # how often the client commits, and a little more


# --- sending ---


def new_topic(f):
    topic, inbox = f.new_topic(), Inbox()
    keys = [f"k-{i}" for i in range(20)]
    for key in keys:
        f.send(topic, key)
    f.collect(f.group(), topic, inbox)
    inbox.await_keys(keys, SOON)
    inbox.require_exactly(keys)
    return f"made by the first send, {len({d.queue for d in inbox.all()})} queues used"


def asynchronous(f):
    topic, inbox, answers, failures = f.topic(QUEUES), Inbox(), [], []
    f.collect(f.group(), topic, inbox)
    keys = [f"k-{i}" for i in range(200)]
    messages = [f.message(topic, key) for key in keys]  # the client needs them until it has the answers
    for message in messages:
        f.sender().send_async(message, answers.append, failures.append)
    await_that(SOON, "the answers", lambda: len(answers) + len(failures) == len(keys))
    require(not failures, f"{len(failures)} failed: {failures[:1]}")
    inbox.await_keys(keys, SOON)
    inbox.require_exactly(keys)
    require({a.msg_id for a in answers} == {d.id for d in inbox.all()}, "the ids sent and received differ")
    return "200 at once, each answered and received once"


def one_way(f):
    topic, inbox = f.topic(QUEUES), Inbox()
    f.collect(f.group(), topic, inbox)
    keys = [f"k-{i}" for i in range(200)]
    for key in keys:
        f.sender().send_oneway(f.message(topic, key))
    inbox.await_keys(keys, SOON)
    inbox.require_exactly(keys)
    return "200, each received once"


def by_key(f):
    topic, inbox = f.topic(QUEUES), Inbox()
    f.collect(f.group(), topic, inbox, orderly=True)
    keys = [f"k{i % 10}-{i // 10}" for i in range(100)]
    for i, key in enumerate(keys):
        f.send_by(i % 10, topic, key)
    inbox.await_keys(keys, SOON)
    for shard in range(10):
        own = [d for d in inbox.all() if d.key.startswith(f"k{shard}-")]
        require({d.queue for d in own} == {shard % QUEUES}, f"key {shard} went to the queues {[d.queue for d in own]}")
        require([d.key for d in own] == [f"k{shard}-{i}" for i in range(10)], f"key {shard} came as {[d.key for d in own]}")
    return "10 keys of 10 messages, each key in one queue and in order"


def content(f):
    topic, inbox = f.topic(QUEUES), Inbox()
    f.collect(f.group(), topic, inbox)
    body = "what the client compresses, ü 中 \U0001f680; " * 1_000
    sent = f.send(topic, "k", body=body, number="ü 中")
    inbox.await_keys([body], SOON)
    (d,) = inbox.all()
    require((d.id, d.tags, d.keys, d.property) == (sent.msg_id, "Tag", "k", "ü 中"), f"sent {sent}, received {d.id}, {d.tags}, {d.keys}, {d.property}")
    return f"a body of {len(body.encode())} bytes with tag, keys and property"


# --- groups ---


class Rounds:
    """Sends one message to each queue and looks who is given which: this client says nothing of its queues."""

    def __init__(self, f, topic, queues, inbox):
        self.f, self.topic, self.queues, self.inbox = f, topic, queues, inbox
        self.keys, self.count = [], 0

    def shares(self):
        self.count += 1
        keys = self.f.send_many(self.topic, f"round{self.count}", self.queues)
        self.keys += keys
        self.inbox.await_keys(keys, SOON)
        by_member = {}
        for d in self.inbox.all():
            if d.key in keys:
                by_member.setdefault(d.member, set()).add(d.queue)
        return by_member

    def await_shares(self, what, *sizes):
        def shared():
            time.sleep(0.2)
            return sorted(len(queues) for queues in self.shares().values()) == list(sizes)

        return await_that(SOON, what, shared)


def join_leave(f):
    topic, group, inbox = f.topic(8), f.group(), Inbox()
    rounds = Rounds(f, topic, 8, inbox)
    f.collect(group, topic, inbox, member="a")
    rounds.await_shares("the only member to be given all queues", 8)
    other = f.collect(group, topic, inbox, member="b")
    join = rounds.await_shares("two members to share the queues", 4, 4)
    f.end(other)
    leave = rounds.await_shares("the one that stays to be given all queues", 8)
    inbox.await_keys(rounds.keys, SOON)
    return f"shared within {join} ms, taken over within {leave} ms"


def crash(f):
    topic, group, inbox = f.topic(8), f.group(), Inbox()
    rounds = Rounds(f, topic, 8, inbox)
    f.collect(group, topic, inbox, member="a")
    rounds.await_shares("the only member to be given all queues", 8)
    process = f.member(group, topic)
    try:
        await_that(SOON, "the other member to have queues", lambda: lacks(rounds))
    finally:
        process.kill()
        process.wait()
    took = rounds.await_shares("the one that lives to be given all queues", 8)
    return f"taken over within {took} ms"


def lacks(rounds):
    """Whether messages go elsewhere: what this member is not given in a moment, another has."""
    rounds.count += 1
    keys = rounds.f.send_many(rounds.topic, f"round{rounds.count}", rounds.queues)
    time.sleep(0.5)
    return len(rounds.inbox.missing(keys)) == rounds.queues // 2


# --- consuming ---


def push(f):
    topic, inbox = f.topic(8), Inbox()
    f.collect(f.group(), topic, inbox)
    sent = {f"k-{i}": f.send(topic, f"k-{i}", number=f"k-{i}") for i in range(400)}
    inbox.await_keys(sent, SOON)
    time.sleep(QUIET)
    inbox.require_exactly(sent)
    for d in inbox.all():
        result = sent[d.key]
        require((d.id, d.queue_offset, d.topic, d.tags, d.keys, d.property, d.reconsume_times)
                == (result.msg_id, result.offset, topic, "Tag", d.key, d.key, 0), f"sent {result}, received {d}")
    return "400 messages of 8 queues, each once and as it was sent"


def woken(f):
    topic, inbox = f.topic(1), Inbox()
    f.collect(f.group(), topic, inbox)
    inbox.await_keys(f.send_many(topic, "first", 1), SOON)
    took = []
    for i in range(20):
        time.sleep(0.1)
        start = time.time()
        f.send(topic, f"k-{i}")
        inbox.await_keys([f"k-{i}"], SOON)
        took.append(inbox.of(f"k-{i}")[0].at - start)
    median = statistics.median(took)
    require(median < WOKEN_SECONDS_MAX, f"median from send to listener {median} s")
    return f"median from send to listener {median * 1000:.0f} ms"


def tags(f):
    topic, two, every = f.topic(QUEUES), Inbox(), Inbox()
    f.collect(f.group(), topic, two, tags="TagA || TagC")
    f.collect(f.group(), topic, every)
    sent = {f"k-{i}": ("TagA", "TagB", "TagC")[i % 3] for i in range(90)}
    for key, tag in sent.items():
        f.send(topic, key, tag=tag)
    wanted = [key for key, tag in sent.items() if tag != "TagB"]
    every.await_keys(sent, SOON)
    two.await_keys(wanted, SOON)
    time.sleep(QUIET)
    two.require_exactly(wanted)
    every.require_exactly(sent)
    return "two tags of three, and all"


def from_last(f):
    """As long as a topic's first message is there, a new group begins with it, whatever it asked for."""
    topic, inbox = f.topic(QUEUES), Inbox()
    keys = f.send_many(topic, "before", 40)
    f.collect(f.group(), topic, inbox)
    inbox.await_keys(keys, SOON)
    keys += f.send_many(topic, "after", 40)
    inbox.await_keys(keys, SOON)
    inbox.require_exactly(keys)
    return "all from the first message on"


def taken_over(f, topic, join, before, meanwhile_count, settle=0):
    """A member ends, and the next is given what came meanwhile, and nothing again. `join` starts a member, which needs
    `settle` seconds until it is given what comes."""
    first, second = Inbox(), Inbox()
    consumer = join(first)
    time.sleep(settle)
    first.await_keys(f.send_many(topic, "k", before), SOON)
    time.sleep(PERSISTED)
    f.end(consumer)
    meanwhile = f.send_many(topic, "meanwhile", meanwhile_count)
    join(second)
    second.await_keys(meanwhile, SOON)
    time.sleep(QUIET)
    second.require_exactly(meanwhile)


def restart(f):
    topic, group = f.topic(QUEUES), f.group()
    taken_over(f, topic, lambda inbox: f.collect(group, topic, inbox), 100, 40)
    return "what came meanwhile, and nothing again"


# --- retries and delays ---


def require_retries(inbox, topic, sent, delays):
    """Requires that a message came with reconsume counts 0, 1, ..., as itself, each time after its delay."""
    tries = inbox.all()
    require(len(tries) == len(delays) + 1, f"it came {len(tries)} times, {len(delays) + 1} wanted")
    seen = []
    for i, d in enumerate(tries):
        require((d.reconsume_times, d.topic, d.id) == (i, topic, sent.msg_id), f"sent {sent}, try {i} came as {d}")
        if i > 0:
            delay, want = d.store_ms / 1000 - tries[i - 1].at, delays[i - 1]
            require(want - EARLY_SECONDS_MAX < delay < want + LATE_SECONDS_MAX, f"try {i} was due after {delay} s, {want} wanted")
            seen.append(f"{delay * 1000:.0f}")
    return ", ".join(seen)


def growing(f):
    topic, group, inbox = f.topic(1), f.group(), Inbox()
    f.introduce(group)
    f.collect(group, topic, inbox, fails=lambda d: d.reconsume_times < 2)
    sent = f.send(topic, "k")
    inbox.await_that(40 + SOON, lambda: len(inbox.all()) == 3)
    return f"again after {require_retries(inbox, topic, sent, (10, 30))} ms, the same message with reconsumeTimes 1, 2"


def dead_letter(f):
    topic, group, inbox, dead = f.topic(1), f.group(), Inbox(), Inbox()
    admin.allow_retries(f.target.leader, group, 1)
    f.introduce(group)
    f.collect(group, topic, inbox, fails=lambda d: True)
    sent = f.send(topic, "k")
    inbox.await_that(10 + SOON, lambda: len(inbox.all()) == 2)
    require_retries(inbox, topic, sent, (10,))
    time.sleep(QUIET)  # what is not there is looked for again after 30 s only
    f.collect(f.group(), "%DLQ%" + group, dead)
    dead.await_keys(["k"], DEAD_SECONDS_MAX)
    require([d.id for d in dead.all()] == [sent.msg_id], f"sent {sent}, dead letters: {dead.all()}")
    require(len(inbox.all()) == 2, f"it came {len(inbox.all())} times, 2 wanted")
    return "two tries with one retry allowed by the group's configuration, then in the dead-letter topic with its id"


def levels(f):
    topic, inbox, due = f.topic(QUEUES), Inbox(), {}
    f.collect(f.group(), topic, inbox)
    for i in range(60):
        due[f"k-{i}"] = time.time() + LEVEL_SECONDS[i % 3]
        f.send(topic, f"k-{i}", level=i % 3 + 1)
    inbox.await_keys(due, SOON)
    time.sleep(QUIET)
    inbox.require_exactly(due)
    late = sorted(d.store_ms / 1000 - due[d.key] for d in inbox.all())
    require(late[0] > -EARLY_SECONDS_MAX and late[-1] < LATE_SECONDS_MAX, f"in the topic from {late[0]} to {late[-1]} s after they were due")
    ms = [round(seconds * 1000) for seconds in (late[0], late[-1], statistics.median(late))]
    return f"60 messages, each once, in the topic {ms[0]} to {ms[1]} ms after they were due, median {ms[2]} ms"


# --- order and broadcast ---


class Watch:
    """What members of one group do with the queues of one topic, seen from inside their listeners."""

    def __init__(self):
        self.inbox, self.lock, self.working, self.broken = Inbox(), threading.Lock(), {}, ""

    def works(self, d):
        """A listener's work on a message, long enough that two at once would meet."""
        with self.lock:
            if d.queue in self.working:
                self.broken = f"queue {d.queue} given to {d.member} while {self.working[d.queue]} works on it"
            self.working[d.queue] = d.member
        time.sleep(0.001)
        with self.lock:
            self.working.pop(d.queue, None)
        return False

    def require_order(self):
        require(not self.broken, self.broken)
        following = {}
        for d in self.inbox.all():
            wanted = following.get(d.queue, 0)
            require(d.queue_offset <= wanted, f"queue {d.queue}: offset {d.queue_offset} came when {wanted} was next")
            following[d.queue] = max(wanted, d.queue_offset + 1)


def one_member(f):
    topic, watch = f.topic(QUEUES), Watch()
    f.collect(f.group(), topic, watch.inbox, fails=watch.works, orderly=True)
    keys = f.send_many(topic, "k", 400)
    watch.inbox.await_keys(keys, SOON)
    time.sleep(QUIET)
    watch.inbox.require_exactly(keys)
    watch.require_order()
    return "400 messages of 4 queues, each once, in order, one at a time"


def two_members(f):
    topic, group, watch = f.topic(QUEUES), f.group(), Watch()
    rounds = Rounds(f, topic, QUEUES, watch.inbox)
    f.collect(group, topic, watch.inbox, member="a", fails=watch.works, orderly=True)
    rounds.await_shares("the only member to be given all queues", 4)
    other = f.collect(group, topic, watch.inbox, member="b", fails=watch.works, orderly=True)

    def shared():
        rounds.keys += f.send_many(topic, f"more{len(rounds.keys)}", 2 * QUEUES)
        time.sleep(0.5)
        return any(d.member == "b" for d in watch.inbox.all())

    await_that(HANDED_OVER, "the second member to be given messages", shared)
    f.end(other)
    rounds.keys += f.send_many(topic, "after", 80)
    watch.inbox.await_keys(rounds.keys, HANDED_OVER)
    watch.require_order()
    return f"{len(rounds.keys)} messages, in order and never two members on one queue, {watch.inbox.again()} given again"


def broadcast(f):
    topic, group, first, second = f.topic(QUEUES), f.group(), Inbox(), Inbox()
    f.broadcast(group, topic, first)
    f.broadcast(group, topic, second)
    time.sleep(QUIET)  # a new member begins with what comes after it has looked where the queues end
    keys = f.send_many(topic, "k", 100)
    for inbox in (first, second):
        inbox.await_keys(keys, SOON)
    time.sleep(QUIET)
    for inbox in (first, second):
        inbox.require_exactly(keys)
    return "100 messages at each of two members"


def broadcast_restart(f):
    topic, group, instance = f.topic(QUEUES), f.group(), f.instance()
    taken_over(f, topic, lambda inbox: f.broadcast(group, topic, inbox, instance=instance), 60, 20, QUIET)
    return "the same member goes on by its local offsets"


# --- the leader is killed ---


def failover(f):
    topic, group, inbox, restarted = f.topic(QUEUES), f.group(), Inbox(), Inbox()
    consumer = f.collect(group, topic, inbox)
    acknowledged = f.send_many(topic, "before", 100)
    f.kill_leader()
    deadline, i = time.monotonic() + MOVED, 0
    while len(acknowledged) < 200:
        require(time.monotonic() < deadline, f"after {MOVED} s only {len(acknowledged) - 100} sends were acknowledged")
        i += 1
        try:
            f.send(topic, f"after-{i}")
            acknowledged.append(f"after-{i}")
        except RocketMQException:
            time.sleep(0.2)
    inbox.await_keys(acknowledged, MOVED)
    time.sleep(PERSISTED)
    f.end(consumer)
    f.collect(group, topic, restarted)
    time.sleep(2 * QUIET)
    require(not restarted.all(), f"a member that came after was given {len(restarted.all())} messages again")
    return f"{len(acknowledged)} acknowledged, all received, {inbox.again()} given again, offsets kept"


CASES = {
    "send/new-topic": new_topic,
    "send/async": asynchronous,
    "send/one-way": one_way,
    "send/by-key": by_key,
    "send/content": content,
    "groups/join-leave": join_leave,
    "groups/crash": crash,
    "pull/push": push,
    "pull/woken": woken,
    "filter/tags": tags,
    "offsets/last": from_last,
    "offsets/restart": restart,
    "retry/growing": growing,
    "retry/dead-letter": dead_letter,
    "delay/levels": levels,
    "order/one-member": one_member,
    "order/two-members": two_members,
    "broadcast/all": broadcast,
    "broadcast/restart": broadcast_restart,
    "failover/concurrent": failover,
}
