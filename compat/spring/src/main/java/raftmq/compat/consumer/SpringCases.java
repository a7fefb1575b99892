package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;
import static raftmq.compat.consumer.Fixture.QUIET_MS;
import static raftmq.compat.consumer.Fixture.SOON_MS;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Predicate;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.spring.core.RocketMQTemplate;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.messaging.Message;
import org.springframework.messaging.support.MessageBuilder;

/** The points as an application with rocketmq-spring asks for them: RocketMQTemplate and @RocketMQMessageListener. */
final class SpringCases {
    private static final int QUEUES = 4;
    private static final long EARLY_MS_MAX = 2_100;
    private static final long LATE_MS_MAX = 5_000;
    private static final long[] LEVEL_MS = {1_000, 5_000, 10_000};
    /** A held pull that arrival does not wake is looked at again after 5 s. */
    private static final long WOKEN_MS_MAX = 500;
    /** Clients ask for routes every 30 s, and until then talk to the leader they know. */
    private static final long MOVED_MS = 75_000;
    private static final long SEND_MS_MAX = 3_000;

    private SpringCases() {}

    /** A case that works with applications. */
    private interface AppCase {
        String run(Fixture f, Apps apps) throws Exception;
    }

    static Map<String, Case> all() {
        Map<String, AppCase> cases = new LinkedHashMap<>();
        cases.put("send/new-topic", SpringCases::newTopic);
        cases.put("send/async", SpringCases::async);
        cases.put("send/one-way", SpringCases::oneWay);
        cases.put("send/by-key", SpringCases::byKey);
        cases.put("send/content", SpringCases::content);
        cases.put("send/batch", SpringCases::batch);
        cases.put("groups/join-leave", SpringCases::joinLeave);
        cases.put("pull/push", SpringCases::push);
        cases.put("pull/woken", SpringCases::woken);
        cases.put("filter/tags", SpringCases::tags);
        cases.put("filter/sql-push", SpringCases::sql);
        cases.put("offsets/last", SpringCases::last);
        cases.put("offsets/restart", SpringCases::restart);
        cases.put("retry/growing", SpringCases::growing);
        cases.put("retry/level", SpringCases::level);
        cases.put("retry/dead-letter", SpringCases::deadLetter);
        cases.put("retry/at-once-dead", SpringCases::atOnceDead);
        cases.put("delay/levels", (f, apps) -> delayed(f, apps, (template, topic, message, i) -> {
            template.syncSend(topic, message, SEND_MS_MAX, i % 3 + 1);
            return LEVEL_MS[i % 3];
        }));
        cases.put("delay/seconds", (f, apps) -> delayed(f, apps, (template, topic, message, i) -> {
            template.syncSendDelayTimeSeconds(topic, message, 1 + i % 5);
            return 1_000L * (1 + i % 5);
        }));
        cases.put("delay/milliseconds", (f, apps) -> delayed(f, apps, (template, topic, message, i) -> {
            template.syncSendDelayTimeMills(topic, message, 500 + 73L * i);
            return 500 + 73L * i;
        }));
        cases.put("delay/deliver-at", (f, apps) -> delayed(f, apps, (template, topic, message, i) -> {
            template.syncSendDeliverTimeMills(topic, message, System.currentTimeMillis() + 500 + 73L * i);
            return 500 + 73L * i;
        }));
        cases.put("order/one-member", SpringCases::oneMember);
        cases.put("order/suspend", SpringCases::suspend);
        cases.put("order/two-members", SpringCases::twoMembers);
        cases.put("broadcast/all", SpringCases::broadcast);
        cases.put("broadcast/restart", SpringCases::broadcastRestart);
        cases.put("failover/concurrent", SpringCases::failover);
        Map<String, Case> all = new LinkedHashMap<>();
        cases.forEach((id, body) -> all.put(id, f -> body.run(f, new Apps(f))));
        return all;
    }

    /** Puts what it is given into the inbox and throws at what is to be given again. */
    private static Listeners.Sink failing(Inbox inbox, Predicate<MessageExt> fails) {
        return message -> {
            inbox.add(message);
            if (fails.test(message)) {
                throw new IllegalStateException("to be given again");
            }
        };
    }

    // --- sending ---

    private static String newTopic(Fixture f, Apps apps) throws Exception {
        String topic = "new-" + f.group();
        List<String> keys = apps.send(topic, "k", 20);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.Concurrent.class, f.group(), topic, inbox::add);
        inbox.awaitExactly(keys, SOON_MS);
        long queues = inbox.deliveries().stream().map(d -> d.message().getQueueId()).distinct().count();
        return "made by the first send, " + queues + " queues used";
    }

    private static String async(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.Concurrent.class, f.group(), topic, inbox::add);
        Map<String, Object> answers = new ConcurrentHashMap<>();
        List<String> keys = new ArrayList<>();
        for (int i = 0; i < 200; i++) {
            String key = "k-" + i;
            keys.add(key);
            apps.template().asyncSend(topic, Apps.message(key), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    answers.put(key, result);
                }

                @Override
                public void onException(Throwable e) {
                    answers.put(key, e);
                }
            });
        }
        Fixture.await(SOON_MS, "the answers", () -> answers.size() == keys.size());
        answers.forEach((key, answer) -> {
            require(answer instanceof SendResult, "%s: %s", key, answer);
            Apps.sent((SendResult) answer);
        });
        inbox.awaitExactly(keys, SOON_MS);
        return "200 at once, each answered and received once";
    }

    private static String oneWay(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.Concurrent.class, f.group(), topic, inbox::add);
        List<String> keys = new ArrayList<>();
        for (int i = 0; i < 200; i++) {
            keys.add("k-" + i);
            apps.template().sendOneWay(topic, Apps.message("k-" + i));
        }
        inbox.awaitExactly(keys, SOON_MS);
        return "200, each received once";
    }

    private static String byKey(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.Orderly.class, f.group(), topic, inbox::add);
        List<String> keys = new ArrayList<>();
        for (int i = 0; i < 100; i++) {
            String key = "k" + i % 10 + "-" + i / 10;
            keys.add(key);
            Apps.sent(apps.template().syncSendOrderly(topic, Apps.message(key), "shard" + i % 10));
        }
        inbox.awaitExactly(keys, SOON_MS);
        for (int shard = 0; shard < 10; shard++) {
            String prefix = "k" + shard + "-";
            List<Inbox.Delivery> own = inbox.deliveries().stream().filter(d -> d.key().startsWith(prefix)).toList();
            require(own.stream().map(d -> d.message().getQueueId()).distinct().count() == 1, "%s went to several queues", prefix);
            for (int i = 0; i < own.size(); i++) {
                require(own.get(i).key().equals(prefix + i), "%s came when %s was next", own.get(i).key(), prefix + i);
            }
        }
        return "10 keys of 10 messages, each key in one queue and in order";
    }

    private static String content(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.Concurrent.class, f.group(), topic, inbox::add);
        String body = "what the client compresses, ü 中 \uD83D\uDE80; ".repeat(1_000);
        Message<String> message = MessageBuilder.fromMessage(Apps.message("k")).setHeader("number", "ü 中").build();
        message = MessageBuilder.withPayload(body).copyHeaders(message.getHeaders()).build();
        SendResult sent = Apps.sent(apps.template().syncSend(topic + ":Tag", message));
        inbox.awaitExactly(List.of(body), SOON_MS);
        MessageExt m = inbox.deliveries().get(0).message();
        require(m.getMsgId().equals(sent.getMsgId()) && m.getTags().equals("Tag") && m.getKeys().equals("k")
                && m.getProperty("number").equals("ü 中"), "sent %s, received %s", sent, m.getProperties());
        return "a body of " + m.getBody().length + " bytes with tag, keys and property";
    }

    private static String batch(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.Concurrent.class, f.group(), topic, inbox::add);
        List<String> keys = new ArrayList<>();
        List<Message<String>> messages = new ArrayList<>();
        for (int i = 0; i < 50; i++) {
            keys.add("k-" + i);
            messages.add(Apps.message("k-" + i));
        }
        Apps.sent(apps.template().syncSend(topic + ":Tag", messages));
        inbox.awaitExactly(keys, SOON_MS);
        require(inbox.deliveries().stream().allMatch(d -> d.key().equals(d.message().getKeys())), "keys are not the messages' own");
        return "50 in one, each received once";
    }

    // --- consuming ---

    private static String joinLeave(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(8);
        String group = f.group();
        Inbox first = new Inbox();
        Inbox second = new Inbox();
        List<String> keys = new ArrayList<>();
        apps.listen(Listeners.Concurrent.class, group, topic, first::add);
        awaitShares(apps, topic, keys, first, second, 8, 0);
        ConfigurableApplicationContext other = apps.listen(Listeners.Concurrent.class, group, topic, second::add);
        long join = awaitShares(apps, topic, keys, first, second, 4, 4);
        other.close();
        long leave = awaitShares(apps, topic, keys, first, second, 8, 0);
        return "shared within " + join + " ms, taken over within " + leave + " ms, " + keys.size() + " messages";
    }

    /** Sends rounds until the members are given so many queues each. @return how long that took, in milliseconds */
    private static long awaitShares(Apps apps, String topic, List<String> keys, Inbox first, Inbox second, int ones, int others)
            throws Exception {
        return Fixture.await(SOON_MS, "shares of " + ones + " and " + others + " queues", () -> {
            Thread.sleep(200);
            List<String> round = apps.send(topic, "round" + keys.size(), 8);
            keys.addAll(round);
            Fixture.await(SOON_MS, "a round", () -> {
                TreeSet<String> given = new TreeSet<>(first.keys());
                given.addAll(second.keys());
                return given.containsAll(round);
            });
            return queues(first, round) == ones && queues(second, round) == others;
        });
    }

    private static long queues(Inbox inbox, List<String> round) {
        return inbox.deliveries().stream().filter(d -> round.contains(d.key()))
                .map(d -> d.message().getQueueId()).distinct().count();
    }

    private static String push(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(8);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.Concurrent.class, f.group(), topic, inbox::add);
        Map<String, SendResult> sent = new HashMap<>();
        for (int i = 0; i < 400; i++) {
            sent.put("k-" + i, apps.send(topic + ":Tag", "k-" + i));
        }
        inbox.awaitExactly(sent.keySet(), SOON_MS);
        for (Inbox.Delivery d : inbox.deliveries()) {
            SendResult s = sent.get(d.key());
            MessageExt m = d.message();
            require(m.getMsgId().equals(s.getMsgId()) && m.getQueueOffset() == s.getQueueOffset()
                    && m.getQueueId() == s.getMessageQueue().getQueueId() && m.getTopic().equals(topic)
                    && m.getTags().equals("Tag") && m.getKeys().equals(d.key()) && m.getReconsumeTimes() == 0,
                    "sent %s, received %s", s, m);
        }
        return "400 messages of 8 queues, each once and as it was sent";
    }

    private static String woken(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(1);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.Concurrent.class, f.group(), topic, inbox::add);
        inbox.awaitKeys(apps.send(topic, "first", 1), SOON_MS);
        long[] took = new long[20];
        for (int i = 0; i < took.length; i++) {
            Thread.sleep(100);
            long start = System.currentTimeMillis();
            apps.send(topic, "k-" + i);
            inbox.awaitKeys(List.of("k-" + i), SOON_MS);
            took[i] = inbox.of("k-" + i).get(0).atMs() - start;
        }
        Arrays.sort(took);
        long median = took[took.length / 2];
        require(median < WOKEN_MS_MAX, "median from send to listener %d ms", median);
        return "median from send to listener " + median + " ms";
    }

    private static String tags(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        Inbox two = new Inbox();
        Inbox all = new Inbox();
        apps.listen(Listeners.Concurrent.class, f.group(), topic, two::add, "compat.filter=TagA || TagC");
        apps.listen(Listeners.Concurrent.class, f.group(), topic, all::add);
        List<String> wanted = new ArrayList<>();
        List<String> keys = new ArrayList<>();
        for (int i = 0; i < 90; i++) {
            apps.send(topic + ":" + List.of("TagA", "TagB", "TagC").get(i % 3), "k-" + i);
            keys.add("k-" + i);
            if (i % 3 != 1) {
                wanted.add("k-" + i);
            }
        }
        all.awaitExactly(keys, SOON_MS);
        two.awaitExactly(wanted, SOON_MS);
        return "two tags of three, and all";
    }

    private static String sql(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.Sql.class, f.group(), topic, inbox::add,
                "compat.filter=a BETWEEN 5 AND 20 AND region IN ('x', 'z') AND even IS NULL");
        List<String> wanted = new ArrayList<>();
        for (int i = 0; i < 30; i++) {
            MessageBuilder<String> message = MessageBuilder.fromMessage(Apps.message("k-" + i))
                    .setHeader("a", String.valueOf(i)).setHeader("region", List.of("x", "y", "z").get(i % 3));
            if (i % 2 == 0) {
                message.setHeader("even", "yes");
            }
            Apps.sent(apps.template().syncSend(topic, message.build()));
            if (i >= 5 && i <= 20 && i % 3 != 1 && i % 2 == 1) {
                wanted.add("k-" + i);
            }
        }
        inbox.awaitExactly(wanted, SOON_MS);
        return wanted.size() + " of 30 messages passed";
    }

    /** As long as a topic's first message is there, a new group begins with it, whatever it asked for. */
    private static String last(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        List<String> keys = new ArrayList<>(apps.send(topic, "before", 40));
        Inbox inbox = new Inbox();
        apps.listen(Listeners.Concurrent.class, f.group(), topic, inbox::add);
        inbox.awaitKeys(keys, SOON_MS);
        keys.addAll(apps.send(topic, "after", 40));
        inbox.awaitExactly(keys, SOON_MS);
        return "all from the first message on";
    }

    private static String restart(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        Inbox first = new Inbox();
        ConfigurableApplicationContext application = apps.listen(Listeners.Concurrent.class, group, topic, first::add);
        first.awaitExactly(apps.send(topic, "k", 100), SOON_MS);
        application.close();
        List<String> meanwhile = apps.send(topic, "meanwhile", 40);
        Inbox second = new Inbox();
        apps.listen(Listeners.Concurrent.class, group, topic, second::add);
        second.awaitExactly(meanwhile, SOON_MS);
        return "what came meanwhile, and nothing again";
    }

    // --- retries and delays ---

    private static String growing(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(1);
        String group = f.group();
        f.introduce(group);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.Concurrent.class, group, topic, failing(inbox, m -> m.getReconsumeTimes() < 2));
        SendResult sent = apps.send(topic, "k");
        inbox.await(40_000 + SOON_MS, () -> inbox.size() == 3);
        String delays = RetryCases.requireRetries(inbox, topic, sent, 10_000, 30_000);
        return "again after " + delays + " ms, the same message with reconsumeTimes 1, 2";
    }

    private static String level(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(1);
        String group = f.group();
        f.introduce(group);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.TwoRetries.class, group, topic, failing(inbox, m -> m.getReconsumeTimes() < 2));
        SendResult sent = apps.send(topic, "k");
        inbox.await(2 * SOON_MS, () -> inbox.size() == 3);
        return "levels 1, 1: again after " + RetryCases.requireRetries(inbox, topic, sent, 1_000, 1_000) + " ms";
    }

    private static String deadLetter(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(1);
        String group = f.group();
        f.introduce(group);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.TwoRetries.class, group, topic, failing(inbox, m -> true));
        SendResult sent = apps.send(topic, "k");
        inbox.await(2 * SOON_MS, () -> inbox.size() == 3);
        RetryCases.requireRetries(inbox, topic, sent, 1_000, 1_000);
        RetryCases.requireDeadLetter(f, group, "k", sent);
        Thread.sleep(QUIET_MS);
        require(inbox.size() == 3, "it came %d times, 3 wanted", inbox.size());
        return "three tries with two retries allowed, then in the dead-letter topic with its ids";
    }

    private static String atOnceDead(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(1);
        String group = f.group();
        Inbox inbox = new Inbox();
        apps.listen(Listeners.NoRetry.class, group, topic, failing(inbox, m -> true));
        SendResult sent = apps.send(topic, "k");
        RetryCases.requireDeadLetter(f, group, "k", sent);
        Thread.sleep(QUIET_MS);
        require(inbox.size() == 1, "it came %d times, 1 wanted", inbox.size());
        return "one try, then in the dead-letter topic";
    }

    private interface Delay {
        /** Sends message number i. @return its delay, in milliseconds */
        long send(RocketMQTemplate template, String topic, Message<String> message, int i);
    }

    private static String delayed(Fixture f, Apps apps, Delay delay) throws Exception {
        String topic = f.topic(QUEUES);
        Inbox inbox = new Inbox();
        apps.listen(Listeners.Concurrent.class, f.group(), topic, inbox::add);
        Map<String, Long> due = new HashMap<>();
        for (int i = 0; i < 60; i++) {
            long now = System.currentTimeMillis();
            due.put("k-" + i, now + delay.send(apps.template(), topic, Apps.message("k-" + i), i));
        }
        inbox.awaitExactly(due.keySet(), SOON_MS);
        long[] late = inbox.deliveries().stream().mapToLong(d -> d.message().getStoreTimestamp() - due.get(d.key())).sorted().toArray();
        require(late[0] >= -EARLY_MS_MAX && late[late.length - 1] <= LATE_MS_MAX,
                "in the topic from %d to %d ms after they were due", late[0], late[late.length - 1]);
        return "60 messages, each once, in the topic " + late[0] + " to " + late[late.length - 1]
                + " ms after they were due, median " + late[late.length / 2] + " ms";
    }

    // --- order ---

    /** A member's work on a message, long enough that two at once would meet. */
    private static Listeners.Sink watched(OrderCases.Watch watch, String member, Predicate<MessageExt> fails) {
        Listeners.Sink sink = failing(watch.inbox(), fails);
        return message -> {
            watch.begin(message.getQueueId(), member);
            try {
                sink.given(message);
                Thread.sleep(1);
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            } finally {
                watch.end(message.getQueueId());
            }
        };
    }

    private static List<String> inOrder(Apps apps, String topic, String prefix, int count) {
        List<String> keys = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            keys.add(prefix + "-" + i);
            Apps.sent(apps.template().syncSendOrderly(topic, Apps.message(prefix + "-" + i), String.valueOf(i)));
        }
        return keys;
    }

    private static String oneMember(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        OrderCases.Watch watch = new OrderCases.Watch();
        apps.listen(Listeners.Orderly.class, f.group(), topic, watched(watch, "a", m -> false));
        watch.inbox().awaitExactly(inOrder(apps, topic, "k", 400), 2 * SOON_MS);
        watch.requireOrder();
        return "400 messages of 4 queues, each once, in order, one at a time";
    }

    private static String suspend(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        OrderCases.Watch watch = new OrderCases.Watch();
        apps.listen(Listeners.Orderly.class, f.group(), topic,
                watched(watch, "a", m -> m.getQueueOffset() % 10 == 3 && m.getReconsumeTimes() < 2));
        List<String> keys = inOrder(apps, topic, "k", 80);
        watch.inbox().awaitKeys(keys, 2 * SOON_MS);
        Thread.sleep(QUIET_MS);
        watch.requireOrder();
        int failed = 0;
        for (String key : keys) {
            List<Inbox.Delivery> tries = watch.inbox().of(key);
            boolean fails = tries.get(0).message().getQueueOffset() % 10 == 3;
            require(tries.size() == (fails ? 3 : 1), "%s came %d times", key, tries.size());
            failed += fails ? 1 : 0;
        }
        require(failed > 0, "no message was to fail");
        return failed + " messages tried three times each while their queues waited, order kept";
    }

    private static String twoMembers(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        OrderCases.Watch watch = new OrderCases.Watch();
        apps.listen(Listeners.Orderly.class, group, topic, watched(watch, "a", m -> false));
        List<String> keys = new ArrayList<>(inOrder(apps, topic, "alone", 200));
        watch.inbox().awaitKeys(keys, SOON_MS);
        AtomicInteger second = new AtomicInteger();
        Listeners.Sink sink = watched(watch, "b", m -> false);
        ConfigurableApplicationContext other = apps.listen(Listeners.Orderly.class, group, topic, message -> {
            second.incrementAndGet();
            sink.given(message);
        });
        Fixture.await(OrderCases.HANDED_OVER_MS, "the second member to be given messages", () -> {
            keys.addAll(inOrder(apps, topic, "more" + keys.size(), 2 * QUEUES));
            return second.get() > 0;
        });
        other.close();
        keys.addAll(inOrder(apps, topic, "after", 80));
        return watch.requireHandedOver(keys);
    }

    // --- broadcast ---

    private static ConfigurableApplicationContext member(Apps apps, String group, String topic, String instance, Inbox inbox) {
        return apps.listen(Listeners.Broadcast.class, group, topic, inbox::add, "compat.instance=" + instance);
    }

    private static String broadcast(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        Inbox first = new Inbox();
        Inbox second = new Inbox();
        member(apps, group, topic, f.suite().nextInstance(), first);
        member(apps, group, topic, f.suite().nextInstance(), second);
        Thread.sleep(QUIET_MS); // a new member begins at the end of what is there
        List<String> keys = apps.send(topic, "k", 100);
        first.awaitExactly(keys, SOON_MS);
        second.awaitExactly(keys, SOON_MS);
        return "100 messages at each of two members";
    }

    private static String broadcastRestart(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        String instance = f.suite().nextInstance();
        Inbox first = new Inbox();
        ConfigurableApplicationContext application = member(apps, group, topic, instance, first);
        Thread.sleep(QUIET_MS);
        first.awaitExactly(apps.send(topic, "k", 60), SOON_MS);
        application.close();
        List<String> meanwhile = apps.send(topic, "meanwhile", 20);
        Inbox second = new Inbox();
        member(apps, group, topic, instance, second);
        second.awaitExactly(meanwhile, SOON_MS);
        return "the same member goes on by its local offsets";
    }

    // --- the leader is killed ---

    private static String failover(Fixture f, Apps apps) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        Inbox inbox = new Inbox();
        ConfigurableApplicationContext application = apps.listen(Listeners.Concurrent.class, group, topic, inbox::add);
        List<String> acknowledged = new ArrayList<>(apps.send(topic, "before", 100));
        f.suite().leaderKill().await();
        long deadline = System.nanoTime() + MOVED_MS * 1_000_000;
        for (int i = 0; acknowledged.size() < 200; i++) {
            require(System.nanoTime() < deadline, "after %d ms only %d sends were acknowledged", MOVED_MS, acknowledged.size() - 100);
            try {
                apps.send(topic, "after-" + i);
                acknowledged.add("after-" + i);
            } catch (RuntimeException unknownOutcome) {
                Thread.sleep(200);
            }
        }
        inbox.awaitKeys(acknowledged, MOVED_MS);
        f.awaitNoLag(group, topic);
        application.close();
        Inbox restarted = new Inbox();
        // a 5.x client that happens to ask the dead name server first does not start
        Fixture.await(MOVED_MS, "a start after the kill",
                () -> apps.listen(Listeners.Concurrent.class, group, topic, restarted::add).isActive());
        Thread.sleep(2 * QUIET_MS);
        require(restarted.size() == 0, "a member that came after was given %d messages again", restarted.size());
        return acknowledged.size() + " acknowledged, all received, " + inbox.again() + " given again, offsets kept";
    }
}
