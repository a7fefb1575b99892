"""What a case works with: names of its own, and clients that are shut down when it ends."""

import itertools
import shlex
import subprocess
import sys
import time

from rocketmq.client import Message, Producer, PushConsumer, RecvMessage, SendStatus
from rocketmq.exceptions import ffi_check
from rocketmq.ffi import MessageModel, _CConsumeStatus, dll

import admin
from inbox import Failure, Inbox, require

# how long anything that should come is waited for: a client that missed something looks again after 30 s
SOON = 45
# how long what must not come is given to come
QUIET = 2
POLL_SECONDS = 0.02


class Target:
    """The group that is asked, and what its cases share."""

    def __init__(self, name_servers, leader, stamp, kill):
        self.name_servers = name_servers
        self.leader = leader
        self.stamp = stamp
        self.kill = kill
        self.instances = itertools.count(1)

    def arguments(self, stamp):
        """What a process that asks the same group is started with."""
        return [self.name_servers, self.leader, stamp, self.kill]


def push_consumer(name_servers, group, instance, topic, listener, tags="*", **options):
    consumer = PushConsumer(group, **options)
    consumer.set_namesrv_addr(name_servers)
    consumer.set_instance_name(instance)
    subscribe(consumer, topic, listener, tags)
    return consumer


def subscribe(consumer, topic, listener, tags):
    """What the client's own method does, but for a listener that raises: that lets the exception pass through ctypes, which
    then answers the library with what happens to be in memory, so that such a message may count as consumed."""

    def on_message(_, handle):
        try:
            listener(RecvMessage(handle))
        except RuntimeError:
            return _CConsumeStatus.RECONSUME_LATER.value
        return _CConsumeStatus.CONSUME_SUCCESS.value

    ffi_check(dll.Subscribe(consumer._handle, topic.encode(), tags.encode()))
    consumer._register_callback(on_message)


class Fixture:
    def __init__(self, target, id):
        self.target = target
        self.name = id.replace("/", "-") + "-" + target.stamp
        self.topics = itertools.count(1)
        self.groups = itertools.count(1)
        self.open = []
        self.producer = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Ends the clients, the newest first."""
        while self.open:
            self.open.pop().shutdown()

    # --- names ---

    def group(self):
        return f"g-{self.name}-{next(self.groups)}"

    def new_topic(self):
        """The name of a topic that nobody has made."""
        return f"t-{self.name}-{next(self.topics)}"

    def topic(self, queues):
        topic = self.new_topic()
        admin.make_topic(self.target.leader, topic, queues)
        # all of them: a client asks any of them, and again after 30 s only
        for name_server in self.target.name_servers.split(";"):
            await_that(SOON, f"a route of {topic} at {name_server}", lambda: admin.has_route(name_server, topic))
        return topic

    def instance(self):
        """Clients of one name in a process share their connections; each here gets its own."""
        return f"suite-{self.target.stamp}-{next(self.target.instances)}"

    # --- sending ---

    def sender(self):
        if self.producer is None:
            self.producer = Producer("p-" + self.name)
            self.producer.set_namesrv_addr(self.target.name_servers)
            self.producer.start()
            self.open.append(self.producer)
        return self.producer

    @staticmethod
    def message(topic, key, body=None, tag="Tag", number=None, level=None):
        message = Message(topic)
        message.set_keys(key)
        message.set_tags(tag)
        message.set_body(body or key)
        if number is not None:
            message.set_property("number", number)
        if level is not None:
            message.set_delay_time_level(level)
        return message

    def send(self, topic, key, **fields):
        return self.sent(self.sender().send_sync(self.message(topic, key, **fields)))

    def send_by(self, shard, topic, key):
        """Sends to the queue that a number names."""
        return self.sent(self.sender().send_orderly(self.message(topic, key), shard))

    @staticmethod
    def sent(result):
        require(result.status == SendStatus.OK, f"a send ended with {result.status}")
        return result

    def send_many(self, topic, prefix, count):
        """Sends messages with the keys PREFIX-0 and on, in turn to all queues."""
        keys = [f"{prefix}-{i}" for i in range(count)]
        for i, key in enumerate(keys):
            self.send_by(i, topic, key)
        return keys

    # --- consuming ---

    def collect(self, group, topic, inbox, tags="*", member="", fails=lambda delivery: False, instance=None, **options):
        """Starts a push consumer that puts all it gets into the inbox, and fails what it is told to."""
        consumer = push_consumer(self.target.name_servers, group, instance or self.instance(), topic,
                                 inbox.listener(member, fails), tags, **options)
        consumer.start()
        self.open.append(consumer)
        return consumer

    def broadcast(self, group, topic, inbox, **options):
        return self.collect(group, topic, inbox, message_model=MessageModel.BROADCASTING, **options)

    def end(self, consumer):
        self.open.remove(consumer)
        consumer.shutdown()

    def introduce(self, group):
        """Lets the group have been here before, so that its retry topic is there: a client that does not find that topic at
        its start looks for it again after 30 s only."""
        topic, inbox = self.topic(1), Inbox()
        consumer = self.collect(group, topic, inbox)
        inbox.await_keys(self.send_many(topic, "introduction", 1), SOON)
        self.end(consumer)

    def member(self, group, topic):
        """Starts a member in a process of its own. The caller kills it."""
        from member import STARTED  # it imports this module

        command = [sys.executable, sys.argv[0], "member", self.target.name_servers, group, topic]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if line.strip() == STARTED:
                return process
        raise Failure(f"the member's process ended while starting, with code {process.wait()}")

    def kill_leader(self):
        require(self.target.kill != "-", "no command to kill the leader with")
        killed = subprocess.run(shlex.split(self.target.kill), check=True, capture_output=True, text=True)
        print(killed.stdout.strip(), flush=True)


def await_that(seconds, what, condition):
    """Polls a condition that nothing announces. Returns how many milliseconds that took."""
    start = time.monotonic()
    while not condition():
        require(time.monotonic() - start < seconds, f"waited {seconds} s in vain for {what}")
        time.sleep(POLL_SECONDS)
    return int((time.monotonic() - start) * 1000)
