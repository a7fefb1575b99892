package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;
import static raftmq.compat.consumer.Fixture.QUIET_MS;
import static raftmq.compat.consumer.Fixture.SOON_MS;
import static raftmq.compat.consumer.Fixture.message;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Push, pull and lite pull: what a pull is answered, when, and how much at once. */
@SuppressWarnings("deprecation") // DefaultMQPullConsumer shows the answers as they are
final class PullCases {
    private static final int PACED_MESSAGES = 20;
    private static final long PACED_PAUSE_MS = 100;
    /** A held pull that arrival does not wake is looked at again after 5 s. */
    private static final long WOKEN_WITHIN_MS = 500;
    /** What a broker gives at most in one answer, unless its first message alone is larger. */
    private static final int ANSWER_BYTES_MAX = 256 * 1024;
    private static final int ASKED = 100;

    private PullCases() {}

    static void addTo(Map<String, Case> cases) {
        cases.put("pull/push", PullCases::push);
        cases.put("pull/woken", PullCases::woken);
        cases.put("pull/statuses", PullCases::statuses);
        cases.put("pull/unknown", PullCases::unknown);
        cases.put("pull/held", PullCases::held);
        cases.put("pull/limits", PullCases::limits);
        cases.put("pull/listener-batches", PullCases::listenerBatches);
        cases.put("pull/lite-subscribe", PullCases::liteSubscribe);
        cases.put("pull/lite-assign", PullCases::liteAssign);
    }

    private static String push(Fixture f) throws Exception {
        String topic = f.topic(8);
        Inbox inbox = new Inbox();
        f.collect(f.group(), topic, "*", inbox);
        Map<String, SendResult> sent = new HashMap<>();
        for (int i = 0; i < 400; i++) {
            var message = message(topic, "Tag", "k-" + i);
            message.putUserProperty("number", String.valueOf(i));
            sent.put("k-" + i, f.send(message));
        }
        inbox.awaitExactly(sent.keySet(), SOON_MS);
        for (Inbox.Delivery d : inbox.deliveries()) {
            SendResult result = sent.get(d.key());
            MessageExt m = d.message();
            require(m.getQueueId() == result.getMessageQueue().getQueueId() && m.getQueueOffset() == result.getQueueOffset()
                    && m.getMsgId().equals(result.getMsgId()) && m.getTopic().equals(topic) && m.getTags().equals("Tag")
                    && m.getKeys().equals(d.key()) && ("k-" + m.getUserProperty("number")).equals(d.key())
                    && m.getReconsumeTimes() == 0, "sent %s, received %s", result, m);
        }
        return sent.size() + " messages of 8 queues, each once and as it was sent";
    }

    private static String woken(Fixture f) throws Exception {
        String topic = f.topic(1);
        Inbox inbox = new Inbox();
        f.collect(f.group(), topic, "*", inbox);
        f.send(topic, "first", 1);
        inbox.awaitKeys(Set.of("first-0"), SOON_MS);
        List<Long> latencies = new ArrayList<>();
        for (int i = 0; i < PACED_MESSAGES; i++) {
            Thread.sleep(PACED_PAUSE_MS);
            long start = System.currentTimeMillis();
            f.send(message(topic, "", "k-" + i));
            inbox.awaitKeys(Set.of("k-" + i), SOON_MS);
            latencies.add(inbox.of("k-" + i).get(0).atMs() - start);
        }
        latencies.sort(null);
        long median = latencies.get(latencies.size() / 2);
        require(median < WOKEN_WITHIN_MS, "median from send to listener %d ms", median);
        return "median from send to listener " + median + " ms";
    }

    private static void expect(PullResult result, PullStatus status, long next, int messages) {
        int found = result.getMsgFoundList() == null ? 0 : result.getMsgFoundList().size();
        require(result.getPullStatus() == status && result.getNextBeginOffset() == next && found == messages,
                "%s with %d messages and next %d wanted, got %s", status, messages, next, result);
    }

    private static String statuses(Fixture f) throws Exception {
        String topic = f.topic(2);
        for (int i = 0; i < 10; i++) {
            f.send(message(topic, "Tag", "k-" + i), 0);
        }
        DefaultMQPullConsumer consumer = f.pull(f.group());
        MessageQueue queue = f.queue(topic, 0);
        Fixture.await(SOON_MS, "the end to be 10", () -> consumer.maxOffset(queue) == 10);
        require(consumer.minOffset(queue) == 0, "min offset %d", consumer.minOffset(queue));
        expect(consumer.pull(queue, "*", 0, 32), PullStatus.FOUND, 10, 10);
        expect(consumer.pull(queue, "*", 4, 3), PullStatus.FOUND, 7, 3);
        expect(consumer.pull(queue, "Nobody", 0, 32), PullStatus.NO_MATCHED_MSG, 10, 0);
        expect(consumer.pull(queue, "*", 10, 32), PullStatus.NO_NEW_MSG, 10, 0);
        expect(consumer.pull(queue, "*", 11, 32), PullStatus.OFFSET_ILLEGAL, 10, 0);
        expect(consumer.pull(queue, "*", 1_000_000, 32), PullStatus.OFFSET_ILLEGAL, 10, 0);
        expect(consumer.pull(f.queue(topic, 1), "*", 0, 32), PullStatus.NO_NEW_MSG, 0, 0);
        expect(consumer.pull(f.queue(topic, 1), "*", 5, 32), PullStatus.OFFSET_ILLEGAL, 0, 0);
        return "FOUND, NO_MATCHED_MSG, NO_NEW_MSG and OFFSET_ILLEGAL, each with where to go on";
    }

    private static String unknown(Fixture f) throws Exception {
        String topic = f.topic(2);
        DefaultMQPullConsumer consumer = f.pull(f.group());
        consumer.fetchSubscribeMessageQueues(topic); // the client learns the route
        StringBuilder codes = new StringBuilder();
        for (MessageQueue queue : List.of(f.queue(topic, 2), f.queue(topic, -1))) {
            try {
                PullResult result = consumer.pull(queue, "*", 0, 32);
                require(false, "queue %d, which is not there, gives %s", queue.getQueueId(), result);
            } catch (MQBrokerException e) {
                codes.append(codes.isEmpty() ? "" : ", ").append(e.getResponseCode());
            }
        }
        return "refused with codes " + codes;
    }

    private static String held(Fixture f) throws Exception {
        String topic = f.topic(1);
        DefaultMQPullConsumer consumer = f.pull(f.group());
        MessageQueue queue = f.queue(topic, 0);
        CompletableFuture<PullResult> pulled = CompletableFuture.supplyAsync(() -> {
            try {
                return consumer.pullBlockIfNotFound(queue, "*", 0, 32);
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
        Thread.sleep(QUIET_MS);
        require(!pulled.isDone(), "a pull that should be held was answered");
        long start = System.nanoTime();
        f.send(message(topic, "", "k"), 0);
        expect(pulled.get(SOON_MS, TimeUnit.MILLISECONDS), PullStatus.FOUND, 1, 1);
        long wokenMs = (System.nanoTime() - start) / 1_000_000;

        consumer.setBrokerSuspendMaxTimeMillis(1_500);
        start = System.nanoTime();
        expect(consumer.pullBlockIfNotFound(queue, "*", 1, 32), PullStatus.NO_NEW_MSG, 1, 0);
        long heldMs = (System.nanoTime() - start) / 1_000_000;
        require(heldMs >= 1_000, "a pull to be held for 1,500 ms was answered after %d ms", heldMs);
        return "answered " + wokenMs + " ms after the send began; one to be held for 1,500 ms ended after " + heldMs + " ms";
    }

    private static String limits(Fixture f) throws Exception {
        String topic = f.topic(1);
        MessageQueue queue = f.queue(topic, 0);
        String body = "x".repeat(3_500); // below what the client compresses
        int count = 200;
        for (int i = 0; i < count; i++) {
            var message = message(topic, "", "k-" + i);
            message.setBody(body.getBytes(StandardCharsets.UTF_8));
            f.send(message, 0);
        }
        DefaultMQPullConsumer consumer = f.pull(f.group());
        int most = 0;
        long offset = 0;
        while (offset < count) {
            PullResult result = consumer.pull(queue, "*", offset, ASKED);
            require(result.getPullStatus() == PullStatus.FOUND, "%s", result);
            int bytes = result.getMsgFoundList().stream().mapToInt(MessageExt::getStoreSize).sum();
            int messages = result.getMsgFoundList().size();
            require(messages <= ASKED && bytes <= ANSWER_BYTES_MAX && result.getNextBeginOffset() == offset + messages,
                    "%d messages with %d bytes in one answer", messages, bytes);
            most = Math.max(most, messages);
            offset = result.getNextBeginOffset();
        }
        expect(consumer.pull(queue, "*", 0, 1), PullStatus.FOUND, 1, 1);
        expect(consumer.pull(queue, "*", 0, 20), PullStatus.FOUND, 20, 20);
        return "asked for " + ASKED + ", at most " + most + " came in one answer";
    }

    private static String listenerBatches(Fixture f) throws Exception {
        String topic = f.topic(1);
        List<String> keys = f.send(topic, "k", 100);
        DefaultMQPushConsumer consumer = f.push(f.group());
        consumer.setPullBatchSize(16);
        consumer.setConsumeMessageBatchMaxSize(10);
        consumer.subscribe(topic, "*");
        Inbox inbox = new Inbox();
        ConcurrentLinkedQueue<Integer> sizes = new ConcurrentLinkedQueue<>();
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            sizes.add(messages.size());
            messages.forEach(inbox::add);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        inbox.awaitKeys(keys, SOON_MS);
        inbox.requireExactly(keys);
        int most = sizes.stream().mapToInt(Integer::intValue).max().orElse(0);
        require(most == 10, "the largest batch had %d messages, 10 wanted", most);
        return "100 messages in " + sizes.size() + " batches of at most 10";
    }

    private static Inbox poll(DefaultLitePullConsumer consumer, Inbox inbox, Set<String> wanted) throws Exception {
        long deadline = System.nanoTime() + SOON_MS * 1_000_000;
        while (!inbox.keys().containsAll(wanted) && System.nanoTime() < deadline) {
            consumer.poll(500).forEach(inbox::add);
        }
        inbox.awaitKeys(wanted, 0);
        return inbox;
    }

    private static String liteSubscribe(Fixture f) throws Exception {
        String topic = f.topic(4);
        String group = f.group();
        Set<String> keys = Set.copyOf(f.send(topic, "k", 100));
        DefaultLitePullConsumer consumer = f.litePull(group);
        consumer.setAutoCommit(false);
        consumer.subscribe(topic, "*");
        consumer.start();
        poll(consumer, new Inbox(), keys).requireExactly(keys);
        consumer.commitSync();
        Fixture.await(SOON_MS, "the commit to be stored", () -> {
            long sum = 0;
            for (MessageQueue queue : consumer.fetchMessageQueues(topic)) {
                sum += Math.max(consumer.committed(queue), 0);
            }
            return sum == keys.size();
        });
        consumer.shutdown();

        Set<String> more = Set.copyOf(f.send(topic, "more", 40));
        DefaultLitePullConsumer again = f.litePull(group);
        again.subscribe(topic, "*");
        again.start();
        poll(again, new Inbox(), more).requireExactly(more);
        return "100 polled and committed, another member goes on behind them";
    }

    private static String liteAssign(Fixture f) throws Exception {
        String topic = f.topic(2);
        for (int i = 0; i < 20; i++) {
            f.send(message(topic, "", "k-" + i), i % 2);
        }
        MessageQueue even = f.queue(topic, 0);
        MessageQueue odd = f.queue(topic, 1);
        DefaultLitePullConsumer consumer = f.litePull(f.group());
        consumer.start();
        consumer.assign(List.of(even));
        consumer.seek(even, 7);
        poll(consumer, new Inbox(), Set.of("k-14", "k-16", "k-18")).requireExactly(Set.of("k-14", "k-16", "k-18"));

        consumer.seekToBegin(even);
        Set<String> all = evens();
        poll(consumer, new Inbox(), all).requireExactly(all);

        consumer.seekToEnd(even);
        f.send(message(topic, "", "new"), 0);
        poll(consumer, new Inbox(), Set.of("new")).requireExactly(Set.of("new"));

        consumer.assign(List.of(even, odd));
        consumer.seek(odd, 9);
        consumer.pause(List.of(even));
        Inbox inbox = new Inbox();
        poll(consumer, inbox, Set.of("k-19"));
        // a pull that the broker held already is still answered
        f.send(message(topic, "", "held"), 0);
        consumer.poll(QUIET_MS).forEach(inbox::add);
        f.send(message(topic, "", "paused"), 0);
        consumer.poll(QUIET_MS).forEach(inbox::add);
        require(inbox.of("paused").isEmpty(), "a paused queue was polled");
        consumer.resume(List.of(even));
        poll(consumer, inbox, Set.of("held", "paused"));
        return "assign, seek, begin, end, pause and resume";
    }

    private static Set<String> evens() {
        Set<String> keys = ConcurrentHashMap.newKeySet();
        IntStream.range(0, 10).forEach(i -> keys.add("k-" + 2 * i));
        return keys;
    }
}
