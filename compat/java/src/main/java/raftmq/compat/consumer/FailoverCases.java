package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;
import static raftmq.compat.consumer.Fixture.QUIET_MS;
import static raftmq.compat.consumer.Fixture.message;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** The leader is killed while each of these is in the middle of its work. What was acknowledged must arrive. */
final class FailoverCases {
    private static final int QUEUES = 4;
    private static final int BEFORE = 100;
    private static final int AFTER = 100;
    /** Clients ask for routes every 30 s, and until then talk to the leader they know. */
    private static final long MOVED_MS = 75_000;

    private FailoverCases() {}

    static void addTo(Map<String, Case> cases) {
        cases.put("failover/concurrent", FailoverCases::concurrent);
        cases.put("failover/orderly", FailoverCases::orderly);
        cases.put("failover/retry", FailoverCases::retry);
        cases.put("failover/levels", f -> delayed(f, (message, i) -> message.setDelayTimeLevel(2 + i % 2)));
        cases.put("failover/timers", FailoverCases::timers);
    }

    /** Sends, kills the leader, and sends until that works again. @return the keys of what was acknowledged */
    private static List<String> sendOverKill(Fixture f, String topic) throws Exception {
        List<String> acknowledged = new ArrayList<>();
        for (int i = 0; i < BEFORE; i++) {
            f.send(message(topic, "", "before-" + i), i % QUEUES);
            acknowledged.add("before-" + i);
        }
        f.suite().leaderKill().await();
        long deadline = System.nanoTime() + MOVED_MS * 1_000_000;
        int after = 0;
        for (int i = 0; after < AFTER; i++) {
            require(System.nanoTime() < deadline, "after %d ms only %d sends were acknowledged", MOVED_MS, after);
            String key = "after-" + i;
            try {
                SendResult result = f.suite().producer().send(message(topic, "", key), f.queue(topic, i % QUEUES));
                if (result.getSendStatus() == SendStatus.SEND_OK) {
                    acknowledged.add(key);
                    after++;
                }
            } catch (Exception unknownOutcome) {
                Thread.sleep(200);
            }
        }
        return acknowledged;
    }

    /**
     * Starts a client after the kill. The name server that died with the leader is still among those that it knows, and
     * when a 5.x client happens to ask that one first, its start fails instead of asking another.
     */
    private static <T> T startLate(Callable<T> start) throws InterruptedException {
        AtomicReference<T> started = new AtomicReference<>();
        Fixture.await(MOVED_MS, "a start after the kill", () -> {
            started.set(start.call());
            return true;
        });
        return started.get();
    }

    private static String concurrent(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = f.collect(group, topic, "*", inbox);
        List<String> acknowledged = sendOverKill(f, topic);
        inbox.awaitKeys(acknowledged, MOVED_MS);
        f.awaitNoLag(group, topic);
        consumer.shutdown();
        Inbox restarted = new Inbox();
        startLate(() -> f.collect(group, topic, "*", restarted));
        Thread.sleep(2 * QUIET_MS);
        require(restarted.size() == 0, "a member that came after was given %d messages again", restarted.size());
        return acknowledged.size() + " acknowledged, all received, " + inbox.again() + " given again, offsets kept";
    }

    private static String orderly(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        OrderCases.Watch watch = new OrderCases.Watch();
        OrderCases.orderly(f, group, topic, watch.listener("a", m -> false));
        OrderCases.orderly(f, group, topic, watch.listener("b", m -> false));
        List<String> acknowledged = sendOverKill(f, topic);
        watch.inbox().awaitKeys(acknowledged, MOVED_MS);
        watch.requireOrder();
        return acknowledged.size() + " acknowledged, all received in order, never two members on one queue, "
                + watch.inbox().again() + " given again";
    }

    private static String retry(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        Inbox tried = new Inbox();
        Inbox done = new Inbox();
        String group = f.group();
        f.introduce(group);
        DefaultMQPushConsumer consumer = f.push(group);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            MessageExt message = messages.get(0);
            if (message.getReconsumeTimes() == 0) {
                tried.add(message);
                context.setDelayLevelWhenNextConsume(2);
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            done.add(message);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        List<String> keys = f.send(topic, "k", BEFORE);
        tried.awaitKeys(keys, Fixture.SOON_MS);
        f.suite().leaderKill().await();
        done.awaitKeys(keys, MOVED_MS);
        return keys.size() + " failed before the kill, all given again after it";
    }

    private interface Delay {
        void set(Message message, int i) throws Exception;
    }

    private static String timers(Fixture f) throws Exception {
        return delayed(f, (message, i) -> DelayCases.set(message, "setDelayTimeMs", 2_000L + 80 * i));
    }

    /** Delayed messages wait while the leader dies; afterwards the topic itself must hold each of them once. */
    private static String delayed(Fixture f, Delay delay) throws Exception {
        String topic = f.topic(1);
        Inbox inbox = new Inbox();
        f.collect(f.group(), topic, "*", inbox);
        Set<String> keys = new TreeSet<>();
        for (int i = 0; i < BEFORE; i++) {
            Message message = message(topic, "", "k-" + i);
            delay.set(message, i);
            f.send(message);
            keys.add("k-" + i);
        }
        f.suite().leaderKill().await();
        inbox.awaitKeys(keys, MOVED_MS);
        Thread.sleep(QUIET_MS);
        List<MessageExt> stored = startLate(() -> f.readAll(f.pull(f.group()), f.queue(topic, 0)));
        Map<String, Integer> times = new TreeMap<>();
        for (MessageExt message : stored) {
            times.merge(new String(message.getBody(), StandardCharsets.UTF_8), 1, Integer::sum);
        }
        require(times.keySet().equals(keys) && times.values().stream().allMatch(n -> n == 1),
                "%d delayed, the topic holds %s", keys.size(), times);
        return keys.size() + " waited, each is in the topic once, " + inbox.again() + " given again";
    }
}
