package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;
import static raftmq.compat.consumer.Fixture.QUIET_MS;
import static raftmq.compat.consumer.Fixture.SOON_MS;
import static raftmq.compat.consumer.Fixture.message;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.function.IntUnaryOperator;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.MixAll;
import org.apache.rocketmq.common.message.MessageExt;

/** Messages a consumer could not work on: given again later, and put aside after too many times. */
@SuppressWarnings("deprecation") // DefaultMQPullConsumer reads the dead letters
final class RetryCases {
    /** How early a delay may end by the clocks' rounding, and how late on a busy machine, by the broker's time of storing. */
    private static final long EARLY_MS = 1_100;
    private static final long LATE_MS = 6_000;
    /** The default levels of the first and the second retry. */
    private static final long FIRST_RETRY_MS = 10_000;
    private static final long SECOND_RETRY_MS = 30_000;

    private RetryCases() {}

    static void addTo(Map<String, Case> cases) {
        cases.put("retry/growing", RetryCases::growing);
        cases.put("retry/level", RetryCases::level);
        cases.put("retry/dead-letter", RetryCases::deadLetter);
        cases.put("retry/at-once-dead", RetryCases::atOnceDead);
        cases.put("retry/partial", RetryCases::partial);
        cases.put("retry/send-back", RetryCases::sendBack);
    }

    /**
     * A started consumer that fails each message as long as its reconsume count is below `failures`.
     *
     * @param delayLevel by reconsume count: what the listener asks for; 0 leaves it to the broker, -1 asks for no retry
     */
    private static DefaultMQPushConsumer failing(
            Fixture f, String group, String topic, int timesMax, int failures, IntUnaryOperator delayLevel, Inbox inbox)
            throws Exception {
        f.introduce(group);
        DefaultMQPushConsumer consumer = f.push(group);
        consumer.setMaxReconsumeTimes(timesMax);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            MessageExt message = messages.get(0);
            inbox.add(message);
            if (message.getReconsumeTimes() >= failures) {
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            }
            context.setDelayLevelWhenNextConsume(delayLevel.applyAsInt(message.getReconsumeTimes()));
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        consumer.start();
        return consumer;
    }

    /** Requires that a message came with reconsume counts 0, 1, ..., as itself, each time after its delay. */
    static String requireRetries(Inbox inbox, String topic, SendResult sent, long... delaysMs) {
        String key = inbox.deliveries().get(0).key();
        List<Inbox.Delivery> tries = inbox.of(key);
        require(tries.size() == delaysMs.length + 1, "%s came %d times, %d wanted", key, tries.size(), delaysMs.length + 1);
        StringBuilder seen = new StringBuilder();
        for (int i = 0; i < tries.size(); i++) {
            MessageExt m = tries.get(i).message();
            require(m.getReconsumeTimes() == i, "try %d came with reconsumeTimes %d", i, m.getReconsumeTimes());
            require(m.getTopic().equals(topic), "try %d came as a message of %s", i, m.getTopic());
            require(m.getMsgId().equals(sent.getMsgId()), "sent as %s, try %d is %s", sent.getMsgId(), i, m.getMsgId());
            require(m.getKeys().equals(key), "try %d has the keys %s", i, m.getKeys());
            if (i > 0) {
                String origin = m.getProperty("ORIGIN_MESSAGE_ID");
                require(sent.getOffsetMsgId().equals(origin), "try %d names %s as its origin, which is %s", i, origin, sent.getOffsetMsgId());
                long delay = m.getStoreTimestamp() - tries.get(i - 1).atMs();
                long wanted = delaysMs[i - 1];
                require(delay > wanted - EARLY_MS && delay < wanted + LATE_MS, "try %d was due after %d ms, %d wanted", i, delay, wanted);
                seen.append(i == 1 ? "" : ", ").append(delay);
            }
        }
        return seen.toString();
    }

    private static String growing(Fixture f) throws Exception {
        String topic = f.topic(1);
        Inbox inbox = new Inbox();
        failing(f, f.group(), topic, -1, 2, n -> 0, inbox);
        SendResult sent = f.send(message(topic, "Tag", "k"));
        inbox.await(FIRST_RETRY_MS + SECOND_RETRY_MS + SOON_MS, () -> inbox.size() == 3);
        String delays = requireRetries(inbox, topic, sent, FIRST_RETRY_MS, SECOND_RETRY_MS);
        return "again after " + delays + " ms, the same message with reconsumeTimes 1, 2";
    }

    private static String level(Fixture f) throws Exception {
        String topic = f.topic(1);
        Inbox inbox = new Inbox();
        failing(f, f.group(), topic, -1, 3, n -> n == 2 ? 2 : 1, inbox);
        SendResult sent = f.send(message(topic, "Tag", "k"));
        inbox.await(2 * SOON_MS, () -> inbox.size() == 4);
        return "levels 1, 1, 2: again after " + requireRetries(inbox, topic, sent, 1_000, 1_000, 5_000) + " ms";
    }

    /** Reads the group's dead letters and requires that they are this one message. */
    static MessageExt requireDeadLetter(Fixture f, String group, String key, SendResult sent) throws Exception {
        String topic = MixAll.getDLQTopic(group);
        Fixture.await(SOON_MS, "a route of " + topic, () -> f.routeKnown(topic));
        DefaultMQPullConsumer reader = f.pull(f.group());
        reader.fetchSubscribeMessageQueues(topic);
        PullResult[] result = new PullResult[1];
        Fixture.await(SOON_MS, "the dead letter", () -> {
            result[0] = reader.pull(f.queue(topic, 0), "*", 0, 32);
            return result[0].getMsgFoundList() != null;
        });
        List<MessageExt> dead = result[0].getMsgFoundList();
        require(dead.size() == 1, "%d dead letters, 1 wanted", dead.size());
        MessageExt m = dead.get(0);
        require(new String(m.getBody(), StandardCharsets.UTF_8).equals(key) && m.getMsgId().equals(sent.getMsgId()),
                "sent %s, the dead letter is %s", sent, m);
        return m;
    }

    private static String deadLetter(Fixture f) throws Exception {
        String topic = f.topic(1);
        String group = f.group();
        Inbox inbox = new Inbox();
        failing(f, group, topic, 2, Integer.MAX_VALUE, n -> 1, inbox);
        SendResult sent = f.send(message(topic, "Tag", "k"));
        inbox.await(2 * SOON_MS, () -> inbox.size() == 3);
        requireRetries(inbox, topic, sent, 1_000, 1_000);
        MessageExt dead = requireDeadLetter(f, group, "k", sent);
        String origin = dead.getProperty("ORIGIN_MESSAGE_ID");
        require(sent.getOffsetMsgId().equals(origin), "the dead letter's origin is %s, sent was %s", origin, sent.getOffsetMsgId());
        require(topic.equals(dead.getProperty("RETRY_TOPIC")), "the dead letter's topic was %s", dead.getProperty("RETRY_TOPIC"));
        Thread.sleep(QUIET_MS);
        require(inbox.size() == 3, "it came %d times, 3 wanted", inbox.size());
        return "three tries with two retries allowed, then in the dead-letter topic with its ids";
    }

    private static String atOnceDead(Fixture f) throws Exception {
        String topic = f.topic(1);
        String group = f.group();
        Inbox inbox = new Inbox();
        failing(f, group, topic, -1, Integer.MAX_VALUE, n -> -1, inbox);
        SendResult sent = f.send(message(topic, "Tag", "k"));
        requireDeadLetter(f, group, "k", sent);
        Thread.sleep(QUIET_MS);
        require(inbox.size() == 1, "it came %d times, 1 wanted", inbox.size());
        return "one try, then in the dead-letter topic";
    }

    /** A listener given ten at once acknowledges the first six: the other four come again. */
    private static String partial(Fixture f) throws Exception {
        String topic = f.topic(1);
        String group = f.group();
        f.introduce(group);
        List<String> keys = f.send(topic, "k", 10);
        DefaultMQPushConsumer consumer = f.push(group);
        consumer.setConsumeMessageBatchMaxSize(10);
        consumer.subscribe(topic, "*");
        Inbox inbox = new Inbox();
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(inbox::add);
            if (messages.get(0).getReconsumeTimes() == 0) {
                context.setAckIndex(5);
                context.setDelayLevelWhenNextConsume(1);
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        inbox.await(SOON_MS, () -> inbox.size() == 14);
        Thread.sleep(QUIET_MS);
        for (int i = 0; i < 10; i++) {
            int times = inbox.of("k-" + i).size();
            require(times == (i < 6 ? 1 : 2), "%s came %d times", keys.get(i), times);
        }
        return "six of ten acknowledged, the other four given again";
    }

    private static String sendBack(Fixture f) throws Exception {
        String topic = f.topic(1);
        String group = f.group();
        SendResult sent = f.send(message(topic, "Tag", "k"), 0);
        DefaultMQPullConsumer puller = f.pull(group);
        // A message is acknowledged a moment before consumers see it.
        PullResult result = puller.pullBlockIfNotFound(f.queue(topic, 0), "*", 0, 32);
        puller.sendMessageBack(result.getMsgFoundList().get(0), 1, f.suite().brokerName());
        String retryTopic = MixAll.getRetryTopic(group);
        Fixture.await(SOON_MS, "a route of " + retryTopic, () -> f.routeKnown(retryTopic));
        puller.fetchSubscribeMessageQueues(retryTopic);
        PullResult[] again = new PullResult[1];
        Fixture.await(SOON_MS, "the message in " + retryTopic, () -> {
            again[0] = puller.pull(f.queue(retryTopic, 0), "*", 0, 32);
            return again[0].getMsgFoundList() != null;
        });
        MessageExt m = again[0].getMsgFoundList().get(0);
        require(m.getReconsumeTimes() == 1 && m.getMsgId().equals(sent.getMsgId()) && topic.equals(m.getProperty("RETRY_TOPIC")),
                "sent %s, sent back as %s", sent, m);
        return "a pull consumer's message sent back is in the retry topic";
    }
}
