package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;
import static raftmq.compat.consumer.Fixture.QUIET_MS;
import static raftmq.compat.consumer.Fixture.SOON_MS;

import java.lang.reflect.Field;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.impl.consumer.PullAPIWrapper;
import org.apache.rocketmq.common.message.MessageQueue;

/** Reads from followers, for groups that an operator allows it. */
final class ReplicaCases {
    private static final int QUEUES = 2;

    private ReplicaCases() {}

    static void addTo(Map<String, Case> cases) {
        cases.put("replicas/read", ReplicaCases::read);
        cases.put("replicas/not-allowed", ReplicaCases::notAllowed);
    }

    /** Which broker id the consumer would ask next for a queue. The client tells nobody, so it is looked up inside it. */
    private static long source(DefaultMQPushConsumer consumer, MessageQueue queue) {
        try {
            var inside = consumer.getDefaultMQPushConsumerImpl();
            Field wrapper = inside.getClass().getDeclaredField("pullAPIWrapper");
            wrapper.setAccessible(true);
            return ((PullAPIWrapper) wrapper.get(inside)).recalculatePullFromWhichNode(queue);
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException(e);
        }
    }

    private static String read(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        long follower = f.suite().brokerAddresses().keySet().stream().filter(id -> id != 0).findFirst()
                .orElseThrow(() -> new CaseFailure("the group has no followers"));
        f.updateGroup(group, "-i", String.valueOf(follower));
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = f.collect(group, topic, "*", inbox);
        List<String> keys = f.send(topic, "k", 100);
        inbox.awaitKeys(keys, SOON_MS);
        for (int i = 0; i < QUEUES; i++) {
            MessageQueue queue = f.queue(topic, i);
            Fixture.await(SOON_MS, "queue " + i + " to be pulled from member " + follower, () -> source(consumer, queue) == follower);
        }
        List<String> more = f.send(topic, "more", 100);
        inbox.awaitKeys(more, SOON_MS);
        f.awaitNoLag(group, topic);
        Thread.sleep(QUIET_MS);
        require(inbox.size() == 200, "%d messages received, 200 wanted", inbox.size());
        return "pulled from member " + follower + ", offsets committed at the leader";
    }

    private static String notAllowed(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = f.collect(f.group(), topic, "*", inbox);
        inbox.awaitKeys(f.send(topic, "k", 100), SOON_MS);
        for (int i = 0; i < QUEUES; i++) {
            long source = source(consumer, f.queue(topic, i));
            require(source == 0, "queue %d is pulled from broker id %d", i, source);
        }
        return "pulled from the leader";
    }
}
