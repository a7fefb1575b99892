package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;
import static raftmq.compat.consumer.Fixture.SOON_MS;
import static raftmq.compat.consumer.Fixture.message;

import java.text.SimpleDateFormat;
import java.util.ArrayList;
import java.util.Date;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageQueue;

/** Where a group begins, that it goes on there, and how operators move it. */
@SuppressWarnings("deprecation") // DefaultMQPullConsumer asks for single offsets
final class OffsetCases {
    private static final int QUEUES = 4;
    /** After a reset, a 4.9 client drops a queue for 10 s and takes it again at a rebalance, every 20 s. */
    private static final long RESET_MS = 60_000;
    /** Between what is before a point in time and what is behind it. */
    private static final long GAP_MS = 1_200;

    private OffsetCases() {}

    static void addTo(Map<String, Case> cases) {
        cases.put("offsets/first", f -> from(f, ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET));
        cases.put("offsets/last", f -> from(f, ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET));
        cases.put("offsets/timestamp", f -> from(f, ConsumeFromWhere.CONSUME_FROM_TIMESTAMP));
        cases.put("offsets/search", OffsetCases::search);
        cases.put("offsets/commit", OffsetCases::commit);
        cases.put("offsets/restart", OffsetCases::restart);
        cases.put("offsets/reset-running", OffsetCases::resetRunning);
        cases.put("offsets/reset-offline", OffsetCases::resetOffline);
        cases.put("offsets/clone", OffsetCases::cloned);
        cases.put("offsets/skip", OffsetCases::skip);
        cases.put("offsets/lag", OffsetCases::lag);
    }

    /** As long as a topic's first message is there, a new group begins with it, whatever it asked for. */
    private static String from(Fixture f, ConsumeFromWhere where) throws Exception {
        String topic = f.topic(QUEUES);
        List<String> keys = new ArrayList<>(f.send(topic, "before", 40));
        DefaultMQPushConsumer consumer = f.push(f.group());
        consumer.setConsumeFromWhere(where);
        consumer.setConsumeTimestamp(new SimpleDateFormat("yyyyMMddHHmmss").format(new Date(System.currentTimeMillis() + 3_600_000)));
        consumer.subscribe(topic, "*");
        Inbox inbox = new Inbox();
        f.collect(consumer, inbox);
        inbox.awaitKeys(keys, SOON_MS);
        keys.addAll(f.send(topic, "after", 40));
        inbox.awaitKeys(keys, SOON_MS);
        inbox.requireExactly(keys);
        return "all from the first message on";
    }

    private static String search(Fixture f) throws Exception {
        String topic = f.topic(1);
        MessageQueue queue = f.queue(topic, 0);
        DefaultMQPullConsumer consumer = f.pull(f.group());
        for (int i = 0; i < 5; i++) {
            f.send(message(topic, "", "before-" + i), 0);
        }
        Thread.sleep(GAP_MS);
        long between = System.currentTimeMillis();
        Thread.sleep(GAP_MS / 4);
        for (int i = 0; i < 5; i++) {
            f.send(message(topic, "", "after-" + i), 0);
        }
        Fixture.await(SOON_MS, "all ten to be dispatched", () -> {
            return consumer.maxOffset(queue) == 10;
        });
        require(consumer.searchOffset(queue, between) == 5, "between: %d", consumer.searchOffset(queue, between));
        require(consumer.searchOffset(queue, 0) == 0, "before all: %d", consumer.searchOffset(queue, 0));
        long later = consumer.searchOffset(queue, System.currentTimeMillis() + 60_000);
        require(later == 10, "after all: %d", later);
        require(consumer.minOffset(queue) == 0, "min: %d", consumer.minOffset(queue));
        require(consumer.earliestMsgStoreTime(queue) > between - 2 * GAP_MS - SOON_MS
                && consumer.earliestMsgStoreTime(queue) < between, "earliest: %d", consumer.earliestMsgStoreTime(queue));
        return "min, max, earliest time, and by time before, between and after";
    }

    private static String commit(Fixture f) throws Exception {
        String topic = f.topic(1);
        String group = f.group();
        for (int i = 0; i < 10; i++) {
            f.send(message(topic, "", "k-" + i), 0);
        }
        MessageQueue queue = f.queue(topic, 0);
        DefaultMQPullConsumer writer = f.pull(group);
        writer.pull(queue, "*", 0, 32);
        writer.getOffsetStore().updateConsumeOffsetToBroker(queue, 7, false);
        DefaultMQPullConsumer reader = f.pull(group);
        reader.fetchSubscribeMessageQueues(topic);
        Fixture.await(SOON_MS, "another member to see the offset 7", () -> {
            return reader.fetchConsumeOffset(queue, true) == 7;
        });
        return "committed by one member, seen by another";
    }

    private static String restart(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        Inbox first = new Inbox();
        DefaultMQPushConsumer consumer = f.collect(group, topic, "*", first);
        first.awaitKeys(f.send(topic, "k", 100), SOON_MS);
        f.awaitNoLag(group, topic);
        consumer.shutdown();
        List<String> meanwhile = f.send(topic, "meanwhile", 40);
        Inbox second = new Inbox();
        f.collect(group, topic, "*", second);
        second.awaitExactly(meanwhile, SOON_MS);
        return "what came meanwhile, and nothing again";
    }

    /** Sends before and after a point in time. @return the point */
    private static long sendAround(Fixture f, String topic, List<String> before, List<String> after) throws Exception {
        before.addAll(f.send(topic, "before", 40));
        Thread.sleep(GAP_MS);
        long between = System.currentTimeMillis();
        Thread.sleep(GAP_MS / 4);
        after.addAll(f.send(topic, "after", 40));
        return between;
    }

    private static void resetToTime(Fixture f, String group, String topic, long time) throws Exception {
        f.mqadmin("consumer offset by specified", "resetOffsetByTime", "-g", group, "-t", topic, "-s", String.valueOf(time), "-f", "true");
    }

    private static String resetRunning(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        List<String> before = new ArrayList<>();
        List<String> after = new ArrayList<>();
        Inbox inbox = new Inbox();
        f.collect(group, topic, "*", inbox);
        long between = sendAround(f, topic, before, after);
        inbox.awaitKeys(before, SOON_MS);
        inbox.awaitKeys(after, SOON_MS);
        f.awaitNoLag(group, topic);
        long start = System.nanoTime();
        resetToTime(f, group, topic, between);
        inbox.await(RESET_MS, () -> after.stream().allMatch(k -> inbox.of(k).size() >= 2));
        long ms = (System.nanoTime() - start) / 1_000_000;
        Set<String> missing = new TreeSet<>(after);
        missing.removeIf(k -> inbox.of(k).size() >= 2);
        require(missing.isEmpty(), "%d of %d messages were not given again within %d ms: %s", missing.size(), after.size(),
                RESET_MS, Inbox.named(missing));
        Set<String> repeated = new TreeSet<>(before);
        repeated.removeIf(k -> inbox.of(k).size() == 1);
        require(repeated.isEmpty(), "%d messages from before the time were given again: %s", repeated.size(), Inbox.named(repeated));
        List<String> more = f.send(topic, "more", 20);
        inbox.awaitKeys(more, SOON_MS);
        f.awaitNoLag(group, topic);
        return "given again within " + ms + " ms, nothing from before the time, offsets committed after";
    }

    private static String resetOffline(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        List<String> before = new ArrayList<>();
        List<String> after = new ArrayList<>();
        Inbox first = new Inbox();
        DefaultMQPushConsumer consumer = f.collect(group, topic, "*", first);
        long between = sendAround(f, topic, before, after);
        first.awaitKeys(before, SOON_MS);
        first.awaitKeys(after, SOON_MS);
        f.awaitNoLag(group, topic);
        consumer.shutdown();
        resetToTime(f, group, topic, between);
        Inbox second = new Inbox();
        f.collect(group, topic, "*", second);
        second.awaitExactly(after, RESET_MS);
        return "the group begins at the time when it comes back";
    }

    private static String cloned(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String source = f.group();
        String target = f.group();
        Inbox first = new Inbox();
        DefaultMQPushConsumer consumer = f.collect(source, topic, "*", first);
        first.awaitKeys(f.send(topic, "k", 60), SOON_MS);
        f.awaitNoLag(source, topic);
        consumer.shutdown();
        f.updateGroup(target, "-s", "true");
        f.mqadmin("clone group offset success", "cloneGroupOffset", "-s", source, "-d", target, "-t", topic);
        List<String> more = f.send(topic, "more", 20);
        Inbox second = new Inbox();
        f.collect(target, topic, "*", second);
        second.awaitExactly(more, SOON_MS);
        return "the other group goes on where the first stopped";
    }

    private static String skip(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        Inbox first = new Inbox();
        DefaultMQPushConsumer consumer = f.collect(group, topic, "*", first);
        first.awaitKeys(f.send(topic, "k", 20), SOON_MS);
        consumer.shutdown();
        f.send(topic, "skipped", 40);
        f.mqadmin("#", "skipAccumulatedMessage", "-g", group, "-t", topic, "-f", "true");
        Inbox second = new Inbox();
        f.collect(group, topic, "*", second);
        List<String> keys = f.send(topic, "new", 20);
        second.awaitExactly(keys, RESET_MS);
        return "40 waiting messages skipped, the new ones received";
    }

    private static String lag(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = f.collect(group, topic, "*", inbox);
        inbox.awaitKeys(f.send(topic, "k", 40), SOON_MS);
        f.awaitNoLag(group, topic);
        consumer.shutdown();
        f.send(topic, "waiting", 30);
        Fixture.await(SOON_MS, "a lag of 30", () -> {
            return f.suite().admin().examineConsumeStats(group, topic).computeTotalDiff() == 30;
        });
        String printed = f.mqadmin("Diff Total: 30", "consumerProgress", "-g", group);
        require(printed.contains(topic), "consumerProgress does not name the topic");
        return "0 when all is consumed, 30 with 30 waiting";
    }
}
