package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;

import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.function.Consumer;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.MixAll;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** What a case works with: names of its own, and clients that are shut down when it ends. */
final class Fixture implements AutoCloseable {
    /**
     * How long anything that should come is waited for. A client sends a heartbeat when its queues change, but not while
     * it sends one anyhow; then the broker knows its subscription 30 s later, and refuses its pulls until then.
     */
    static final long SOON_MS = 45_000;
    /** Under the clients' own rebalance period of 20 s: a change seen within it was notified. */
    static final long NOTIFIED_MS = 10_000;
    /** How long what must not come is given to come. */
    static final long QUIET_MS = 2_000;
    private static final int CONSUME_THREADS = 4;
    private static final int MQADMIN_TRIES = 3;
    private static final long POLL_MS = 20;

    private final Suite suite;
    private final String name;
    private final Deque<AutoCloseable> open = new ArrayDeque<>();
    private int groups;
    private int topics;

    Fixture(Suite suite, String id) {
        this.suite = suite;
        this.name = id.replace('/', '-') + "-" + suite.stamp();
    }

    // --- names and topics ---

    String nameServers() {
        return suite.nameServers();
    }

    Suite suite() {
        return suite;
    }

    /** A group name nobody used before. */
    String group() {
        return "g-" + name + (groups++ == 0 ? "" : "-" + groups);
    }

    /** A new topic with this many queues, made with the admin API. */
    String topic(int queues) throws Exception {
        String topic = "t-" + name + (topics++ == 0 ? "" : "-" + topics);
        TopicConfig config = new TopicConfig(topic);
        config.setReadQueueNums(queues);
        config.setWriteQueueNums(queues);
        suite.admin().createAndUpdateTopicConfig(suite.leaderAddress(), config);
        await(SOON_MS, "a route of " + topic, () -> routeKnown(topic));
        return topic;
    }

    /** @throws Exception among others while there is no route */
    boolean routeKnown(String topic) throws Exception {
        return !suite.admin().examineTopicRouteInfo(topic).getQueueDatas().isEmpty();
    }

    MessageQueue queue(String topic, int id) {
        return new MessageQueue(topic, suite.brokerName(), id);
    }

    // --- sending ---

    static Message message(String topic, String tag, String key) {
        return new Message(topic, tag, key, key.getBytes(StandardCharsets.UTF_8));
    }

    SendResult send(Message message) throws Exception {
        return sent(suite.producer().send(message));
    }

    SendResult send(Message message, int queue) throws Exception {
        return sent(suite.producer().send(message, queue(message.getTopic(), queue)));
    }

    private static SendResult sent(SendResult result) {
        require(result.getSendStatus() == SendStatus.SEND_OK, "a send ended with %s", result.getSendStatus());
        return result;
    }

    /** Sends messages with the keys PREFIX-0 and on over all queues of a topic. */
    List<String> send(String topic, String prefix, int count) throws Exception {
        List<String> keys = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            String key = prefix + "-" + i;
            send(message(topic, "", key));
            keys.add(key);
        }
        return keys;
    }

    // --- consuming ---

    /** A push consumer that is not started, from the first offset on, with few threads. */
    DefaultMQPushConsumer push(String group) {
        return shutLater(new DefaultMQPushConsumer(group), DefaultMQPushConsumer::shutdown, consumer -> {
            consumer.setNamesrvAddr(nameServers());
            consumer.setInstanceName(suite.nextInstance());
            consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            consumer.setConsumeThreadMin(CONSUME_THREADS);
            consumer.setConsumeThreadMax(CONSUME_THREADS);
        });
    }

    /** A started concurrent consumer that puts all it gets into the inbox. */
    DefaultMQPushConsumer collect(String group, String topic, String tags, Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = push(group);
        consumer.subscribe(topic, tags);
        collect(consumer, inbox);
        return consumer;
    }

    void collect(DefaultMQPushConsumer consumer, Inbox inbox) throws Exception {
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(inbox::add);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
    }

    /**
     * Lets the group have been here before, so that its retry topic is there. A client that does not find that topic at
     * its start looks for it again after 30 s only, and until then is given nothing again.
     */
    void introduce(String group) throws Exception {
        String topic = topic(1);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = collect(group, topic, "*", inbox);
        inbox.awaitKeys(send(topic, "introduction", 1), SOON_MS);
        String retryTopic = MixAll.getRetryTopic(group);
        await(SOON_MS, "a route of " + retryTopic, () -> routeKnown(retryTopic));
        consumer.shutdown();
    }

    /** A started pull consumer. */
    @SuppressWarnings("deprecation") // the client's oldest interface, and still the one nearest to the protocol
    DefaultMQPullConsumer pull(String group) throws Exception {
        DefaultMQPullConsumer consumer = shutLater(new DefaultMQPullConsumer(group), DefaultMQPullConsumer::shutdown, c -> {
            c.setNamesrvAddr(nameServers());
            c.setInstanceName(suite.nextInstance());
        });
        consumer.start();
        return consumer;
    }

    /** A lite pull consumer that is not started. */
    DefaultLitePullConsumer litePull(String group) {
        return shutLater(new DefaultLitePullConsumer(group), DefaultLitePullConsumer::shutdown, consumer -> {
            consumer.setNamesrvAddr(nameServers());
            consumer.setInstanceName(suite.nextInstance());
            consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        });
    }

    /** Everything in one queue, read with a pull consumer from the beginning to the end that was there at the start. */
    @SuppressWarnings("deprecation")
    List<MessageExt> readAll(DefaultMQPullConsumer consumer, MessageQueue queue) throws Exception {
        List<MessageExt> messages = new ArrayList<>();
        long end = consumer.maxOffset(queue);
        long offset = consumer.minOffset(queue);
        while (offset < end) {
            PullResult result = consumer.pull(queue, "*", offset, 32);
            require(result.getPullStatus() == PullStatus.FOUND, "%s at offset %d of %s, which ends at %d",
                    result.getPullStatus(), offset, queue, end);
            messages.addAll(result.getMsgFoundList());
            offset = result.getNextBeginOffset();
        }
        return messages;
    }

    static String clientId(DefaultMQPushConsumer consumer) {
        return consumer.getDefaultMQPushConsumerImpl().getmQClientFactory().getClientId();
    }

    // --- operators' tools ---

    /** Runs mqadmin; requires that what it printed contains the given text. */
    String mqadmin(String wanted, String... arguments) throws Exception {
        List<String> all = new ArrayList<>(List.of(arguments));
        all.addAll(List.of("-n", nameServers()));
        String output = Child.mqadmin(all.toArray(String[]::new));
        // on a busy machine the tool may give up on an answer; each of its commands used here may be repeated
        for (int i = 1; i < MQADMIN_TRIES && output.contains("RemotingTimeoutException"); i++) {
            output = Child.mqadmin(all.toArray(String[]::new));
        }
        require(output.contains(wanted), "mqadmin %s did not print '%s' but: %s", String.join(" ", arguments), wanted,
                output.substring(0, Math.min(output.length(), 600)).replaceAll("\\s+", " "));
        return output;
    }

    /** Sets one field of a group's configuration on all masters. */
    void updateGroup(String group, String... options) throws Exception {
        List<String> arguments = new ArrayList<>(List.of("updateSubGroup", "-c", suite.cluster(), "-g", group));
        arguments.addAll(List.of(options));
        mqadmin("success", arguments.toArray(String[]::new));
    }

    /** Waits until the group has consumed and committed all of the topic. */
    void awaitNoLag(String group, String topic) throws Exception {
        await(SOON_MS, "the group's lag to become 0", () -> {
            return suite.admin().examineConsumeStats(group, topic).computeTotalDiff() == 0;
        });
    }

    // --- waiting and ending ---

    @FunctionalInterface
    interface Probe {
        boolean holds() throws Exception;
    }

    /** Polls a condition that nothing announces. An exception means not yet. @return how long it took, in milliseconds */
    static long await(long timeoutMs, String what, Probe condition) throws InterruptedException {
        long start = System.nanoTime();
        while (true) {
            String last = "";
            try {
                if (condition.holds()) {
                    return (System.nanoTime() - start) / 1_000_000;
                }
            } catch (InterruptedException e) {
                throw e;
            } catch (Exception e) {
                last = ", at last: " + e;
            }
            require((System.nanoTime() - start) / 1_000_000 < timeoutMs, "waited %d ms in vain for %s%s", timeoutMs, what, last);
            Thread.sleep(POLL_MS);
        }
    }

    private <T> T shutLater(T client, Consumer<T> shutdown, Consumer<T> settings) {
        settings.accept(client);
        open.push(() -> shutdown.accept(client));
        return client;
    }

    /** Also called for clients that were shut down by the case: that does nothing. */
    @Override
    public void close() {
        while (!open.isEmpty()) {
            try {
                open.pop().close();
            } catch (Exception e) {
                // the case has its verdict already
                System.err.println(name + ": shutdown: " + e);
            }
        }
    }

    void closeLater(AutoCloseable resource) {
        open.push(resource);
    }
}
