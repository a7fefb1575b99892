package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;
import static raftmq.compat.consumer.Fixture.QUIET_MS;
import static raftmq.compat.consumer.Fixture.SOON_MS;
import static raftmq.compat.consumer.Fixture.message;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.function.Predicate;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.MixAll;
import org.apache.rocketmq.common.message.MessageExt;

/** Orderly listeners: one consumer to a queue, each queue in its order. */
@SuppressWarnings("deprecation") // DefaultMQPullConsumer reads the dead letters
final class OrderCases {
    private static final int QUEUES = 4;
    /** An orderly consumer that finds a queue locked asks again every 3 s, and at each rebalance, every 20 s. */
    static final long HANDED_OVER_MS = 45_000;

    private OrderCases() {}

    static void addTo(Map<String, Case> cases) {
        cases.put("order/one-member", OrderCases::oneMember);
        cases.put("order/suspend", OrderCases::suspend);
        cases.put("order/dead-letter", OrderCases::deadLetter);
        cases.put("order/two-members", OrderCases::twoMembers);
    }

    /** What members of one group do with the queues of one topic, watched from inside their listeners. */
    static final class Watch {
        private final Map<Integer, String> working = new ConcurrentHashMap<>();
        private final ConcurrentLinkedQueue<String> broken = new ConcurrentLinkedQueue<>();
        private final Inbox inbox = new Inbox();

        Inbox inbox() {
            return inbox;
        }

        /** A listener of one member. `fails` says for which messages it asks to suspend the queue. */
        MessageListenerOrderly listener(String member, Predicate<MessageExt> fails) {
            return (messages, context) -> {
                int queue = context.getMessageQueue().getQueueId();
                begin(queue, member);
                try {
                    for (MessageExt message : messages) {
                        inbox.add(message);
                        if (fails.test(message)) {
                            context.setSuspendCurrentQueueTimeMillis(200);
                            return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                        }
                        Thread.sleep(1); // long enough that two at once would meet
                    }
                    return ConsumeOrderlyStatus.SUCCESS;
                } catch (InterruptedException e) {
                    return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                } finally {
                    end(queue);
                }
            };
        }

        void begin(int queue, String member) {
            String other = working.put(queue, member);
            if (other != null) {
                broken.add("queue " + queue + " given to " + member + " while " + other + " works on it");
            }
        }

        void end(int queue) {
            working.remove(queue);
        }

        /** Requires that each queue was worked on by one member at a time, and its messages first seen in their order. */
        void requireOrder() {
            require(broken.isEmpty(), "%s", broken.peek());
            Map<Integer, Long> last = new TreeMap<>();
            for (Inbox.Delivery d : inbox.deliveries()) {
                MessageExt m = d.message();
                long before = last.getOrDefault(m.getQueueId(), -1L);
                require(m.getQueueOffset() <= before + 1, "queue %d: offset %d came after %d", m.getQueueId(), m.getQueueOffset(), before);
                last.put(m.getQueueId(), Math.max(before, m.getQueueOffset()));
            }
        }

        /** The same once members have taken over from each other and all of these keys have come. */
        String requireHandedOver(List<String> keys) throws InterruptedException {
            inbox.awaitKeys(keys, HANDED_OVER_MS);
            requireOrder();
            return keys.size() + " messages, in order and never two members on one queue, " + inbox.again() + " given again";
        }
    }

    static DefaultMQPushConsumer orderly(Fixture f, String group, String topic, MessageListenerOrderly listener) throws Exception {
        DefaultMQPushConsumer consumer = f.push(group);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(listener);
        consumer.start();
        return consumer;
    }

    /** Sends to each queue in turn, so that the order in a queue is that of the numbers in the keys. */
    private static List<String> send(Fixture f, String topic, String prefix, int count) throws Exception {
        List<String> keys = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            f.send(message(topic, "", prefix + "-" + i), i % QUEUES);
            keys.add(prefix + "-" + i);
        }
        return keys;
    }

    private static String oneMember(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        Watch watch = new Watch();
        orderly(f, f.group(), topic, watch.listener("a", m -> false));
        List<String> keys = send(f, topic, "k", 400);
        watch.inbox().awaitExactly(keys, 2 * SOON_MS);
        watch.requireOrder();
        return "400 messages of 4 queues, each once, in order, one at a time";
    }

    private static String suspend(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        Watch watch = new Watch();
        orderly(f, f.group(), topic, watch.listener("a", m -> m.getQueueOffset() % 10 == 3 && m.getReconsumeTimes() < 2));
        List<String> keys = send(f, topic, "k", 80);
        watch.inbox().awaitKeys(keys, 2 * SOON_MS);
        Thread.sleep(QUIET_MS);
        watch.requireOrder();
        for (String key : keys) {
            List<Inbox.Delivery> tries = watch.inbox().of(key);
            int wanted = tries.get(0).message().getQueueOffset() % 10 == 3 ? 3 : 1;
            require(tries.size() == wanted, "%s came %d times, %d wanted", key, tries.size(), wanted);
        }
        return "8 messages tried three times each while their queues waited, order kept";
    }

    private static String deadLetter(Fixture f) throws Exception {
        String topic = f.topic(1);
        String group = f.group();
        Watch watch = new Watch();
        DefaultMQPushConsumer consumer = f.push(group);
        consumer.setMaxReconsumeTimes(1);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(watch.listener("a", m -> m.getQueueOffset() == 1 && m.getTopic().equals(topic)));
        consumer.start();
        for (int i = 0; i < 3; i++) {
            f.send(message(topic, "", "k-" + i), 0);
        }
        watch.inbox().awaitKeys(List.of("k-0", "k-1", "k-2"), 2 * SOON_MS);
        String deadTopic = MixAll.getDLQTopic(group);
        Fixture.await(SOON_MS, "a route of " + deadTopic, () -> f.routeKnown(deadTopic));
        DefaultMQPullConsumer reader = f.pull(f.group());
        reader.fetchSubscribeMessageQueues(deadTopic);
        Fixture.await(SOON_MS, "the dead letter", () -> {
            List<MessageExt> dead = f.readAll(reader, f.queue(deadTopic, 0));
            return dead.size() == 1 && "k-1".equals(dead.get(0).getKeys());
        });
        return "put aside after " + watch.inbox().of("k-1").size() + " tries, the queue went on";
    }

    private static String twoMembers(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        Watch watch = new Watch();
        ConcurrentLinkedQueue<String> second = new ConcurrentLinkedQueue<>();
        orderly(f, group, topic, watch.listener("a", m -> false));
        List<String> keys = new ArrayList<>(send(f, topic, "alone", 200));
        MessageListenerOrderly listener = watch.listener("b", m -> false);
        DefaultMQPushConsumer other = orderly(f, group, topic, (messages, context) -> {
            messages.forEach(m -> second.add(m.getMsgId()));
            return listener.consumeMessage(messages, context);
        });
        keys.addAll(send(f, topic, "two", 200));
        int[] round = {0};
        Fixture.await(HANDED_OVER_MS, "the second member to be given messages", () -> {
            keys.addAll(send(f, topic, "round" + round[0]++, 2 * QUEUES));
            return !second.isEmpty();
        });
        other.shutdown();
        keys.addAll(send(f, topic, "after", 80));
        return watch.requireHandedOver(keys);
    }
}
