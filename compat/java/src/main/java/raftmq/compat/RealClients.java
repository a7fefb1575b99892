package raftmq.compat;

import java.util.OptionalLong;
import java.util.StringJoiner;
import java.util.function.Predicate;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.MQVersion;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;

/**
 * The official client, unmodified and in its default configuration, against a running group: a producer sends in every
 * way it can, push consumers must receive each message, intact and where the broker said it lies.
 *
 * <p>Arguments: name server addresses, a topic made beforehand, a topic nobody has made, messages per mode, and how many
 * seconds a consumer may take to catch up. Exit code 0 when every check passed, 1 when one failed, 2 when it could not run.
 */
public final class RealClients {
    /** How long messages that must not come are given to come. */
    private static final long QUIET_MS = 2_000;
    private static final int PACED_MESSAGES = 40;
    private static final long PACED_PAUSE_MS = 50;
    /** A pull that is held and not woken by the arrival of a message would be looked at again after seconds. */
    private static final long WOKEN_WITHIN_MICROS = 200_000;
    /** Under the 6 s that unanswered requests cost; the client's own threads have been seen to need 3 s. */
    private static final long SHUTDOWN_MS_MAX = 5_000;

    private final String nameServers;
    private final int count;
    private final long catchUpMs;
    private final Report report;

    private RealClients(String nameServers, int count, long catchUpMs, Report report) {
        this.nameServers = nameServers;
        this.count = count;
        this.catchUpMs = catchUpMs;
        this.report = report;
    }

    public static void main(String[] args) {
        if (args.length != 5) {
            System.err.println("usage: RealClients NAMESRV MADE_TOPIC NEW_TOPIC COUNT CATCH_UP_SECONDS");
            System.exit(2);
        }
        String version = MQVersion.getVersionDesc(MQVersion.CURRENT_VERSION);
        Report report = new Report(version + " " + RemotingCommand.getSerializeTypeConfigInThisServer());
        int exitCode;
        try {
            RealClients suite = new RealClients(
                    args[0], Integer.parseInt(args[3]), Long.parseLong(args[4]) * 1000, report);
            suite.run(args[1], args[2]);
            exitCode = report.failures() == 0 ? 0 : 1;
        } catch (Exception e) {
            report.check(false, "the run", "stopped by " + e);
            e.printStackTrace();
            exitCode = 2;
        }
        System.exit(exitCode);
    }

    private void run(String madeTopic, String newTopic) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(madeTopic + "-producer");
        producer.setNamesrvAddr(nameServers);
        producer.start();
        try {
            madeTopic(producer, madeTopic);
            newTopic(producer, newTopic);
        } finally {
            timed("producer shutdown", producer::shutdown);
        }
    }

    /** The consumer is there before the messages, and again after it was away; another group takes two tags only. */
    private void madeTopic(DefaultMQProducer producer, String topic) throws Exception {
        Ledger ledger = new Ledger();
        Sender sender = new Sender(producer, topic, "made topic", ledger, report);
        String group = topic + "-all";
        int fewer = Math.max(count / 10, 1);

        DefaultMQPushConsumer consumer = consumer(group, topic, "*", ledger);
        try {
            sender.sync("sync", count);
            sender.async("async", count);
            sender.oneWay("one-way", count);
            sender.batches("batch", fewer);
            sender.tagged("tagged", fewer);
            ledger.awaitReceived(key -> true, catchUpMs);
            sender.paced("paced", PACED_MESSAGES, PACED_PAUSE_MS);
            ledger.awaitReceived(key -> true, catchUpMs);
        } finally {
            timed("made topic consumer shutdown", consumer::shutdown);
        }
        StringJoiner latencies = new StringJoiner(", ");
        for (String mode : new String[] {"sync", "async", "one-way", "batch", "tagged", "paced"}) {
            ledger.checkMode(report, "made topic receive " + mode, mode);
            OptionalLong median = ledger.medianLatencyMicros(mode);
            latencies.add(mode + " " + (median.isPresent() ? median.getAsLong() + " µs" : "none"));
        }
        report.info("made topic median from send to receipt", latencies.toString());
        long woken = ledger.medianLatencyMicros("paced").orElse(Long.MAX_VALUE);
        report.check(
                woken < WOKEN_WITHIN_MICROS,
                "made topic held pulls are woken by arrival",
                "median under " + WOKEN_WITHIN_MICROS + " µs wanted");
        ledger.checkWhole(report, "made topic received as a whole", key -> true);

        resumedGroup(sender, ledger, group, topic, fewer);
        tagFilter(ledger, topic);
    }

    /** A group that comes back goes on where it stopped: it is given what was sent meanwhile and nothing again. */
    private void resumedGroup(Sender sender, Ledger ledger, String group, String topic, int messages)
            throws Exception {
        int before = ledger.receipts();
        sender.sync("resumed", messages);
        DefaultMQPushConsumer consumer = consumer(group, topic, "*", ledger);
        try {
            ledger.awaitReceived(key -> true, catchUpMs);
            Thread.sleep(QUIET_MS);
        } finally {
            timed("made topic resumed consumer shutdown", consumer::shutdown);
        }
        ledger.checkMode(report, "made topic receive resumed", "resumed");
        int receipts = ledger.receipts() - before;
        report.check(
                receipts == messages,
                "made topic offsets kept over a restart of the consumer",
                receipts + " receipts for " + messages + " messages");
    }

    private void tagFilter(Ledger all, String topic) throws Exception {
        Predicate<String> matching = key -> key.startsWith("tagged/")
                && Integer.parseInt(key.substring("tagged/".length())) % Sender.TAGS.length % 2 == 0;
        Ledger ledger = all.forAnotherGroup();
        DefaultMQPushConsumer consumer = consumer(topic + "-tags", topic, "TagA || TagC", ledger);
        try {
            ledger.awaitReceived(matching, catchUpMs);
            Thread.sleep(QUIET_MS);
        } finally {
            timed("made topic tag consumer shutdown", consumer::shutdown);
        }
        long expected = all.count(matching);
        report.check(
                expected > 0 && ledger.receipts() == expected,
                "made topic tag filter",
                ledger.receipts() + " receipts for " + expected + " messages with one of two tags");
        ledger.checkWhole(report, "made topic tag filter lets nothing else through", matching);
    }

    /** The first send creates the topic; the consumer comes after all messages are there. */
    private void newTopic(DefaultMQProducer producer, String topic) throws Exception {
        Ledger ledger = new Ledger();
        Sender sender = new Sender(producer, topic, "new topic", ledger, report);
        sender.sync("sync", count);
        sender.async("async", count);
        sender.oneWay("one-way", count);
        DefaultMQPushConsumer consumer = consumer(topic + "-all", topic, "*", ledger);
        try {
            ledger.awaitReceived(key -> true, catchUpMs);
        } finally {
            timed("new topic consumer shutdown", consumer::shutdown);
        }
        for (String mode : new String[] {"sync", "async", "one-way"}) {
            ledger.checkMode(report, "new topic receive " + mode, mode);
        }
        ledger.checkWhole(report, "new topic received as a whole", key -> true);
    }

    private DefaultMQPushConsumer consumer(String group, String topic, String tags, Ledger ledger) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(nameServers);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, tags);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                ledger.received(message);
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        return consumer;
    }

    /** A client's shutdown unregisters twice and waits up to 3 s for each answer. */
    private void timed(String name, Runnable shutdown) {
        long start = System.nanoTime();
        shutdown.run();
        long elapsedMs = (System.nanoTime() - start) / 1_000_000;
        report.check(elapsedMs < SHUTDOWN_MS_MAX, name, elapsedMs + " ms");
    }
}
