package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;
import static raftmq.compat.consumer.Fixture.QUIET_MS;
import static raftmq.compat.consumer.Fixture.SOON_MS;
import static raftmq.compat.consumer.Fixture.message;

import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.IntPredicate;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** Tags and SQL92. */
@SuppressWarnings("deprecation") // DefaultMQPullConsumer shows the answers as they are
final class FilterCases {
    private static final int MESSAGES = 30;
    private static final String[] REGIONS = {"x", "y", "z"};
    /** Response code SUBSCRIPTION_PARSE_FAILED. */
    private static final int PARSE_FAILED = 23;

    private FilterCases() {}

    static void addTo(Map<String, Case> cases) {
        cases.put("filter/tags", FilterCases::tags);
        cases.put("filter/sql-push", FilterCases::sqlPush);
        cases.put("filter/sql-grammar", FilterCases::sqlGrammar);
        cases.put("filter/sql-rejected", FilterCases::sqlRejected);
        cases.put("filter/sql-rejected-pull", FilterCases::sqlRejectedByPull);
    }

    private static String tags(Fixture f) throws Exception {
        String topic = f.topic(4);
        Inbox two = new Inbox();
        Inbox all = new Inbox();
        f.collect(f.group(), topic, "TagA || TagC", two);
        f.collect(f.group(), topic, "*", all);
        Set<String> wanted = new TreeSet<>();
        Set<String> sent = new TreeSet<>();
        for (int i = 0; i < 90; i++) {
            // "Aa" and "BB" are different tags with one hash, which alone must not let a message through
            String tag = List.of("TagA", "TagB", "TagC", "Aa", "BB").get(i % 5);
            f.send(message(topic, tag, "k-" + i));
            sent.add("k-" + i);
            if (tag.equals("TagA") || tag.equals("TagC")) {
                wanted.add("k-" + i);
            }
        }
        Inbox hash = new Inbox();
        f.collect(f.group(), topic, "Aa", hash);
        all.awaitKeys(sent, SOON_MS);
        two.awaitKeys(wanted, SOON_MS);
        Set<String> aa = IntStream.range(0, 90).filter(i -> i % 5 == 3).mapToObj(i -> "k-" + i).collect(Collectors.toSet());
        hash.awaitKeys(aa, SOON_MS);
        Thread.sleep(QUIET_MS);
        two.requireExactly(wanted);
        all.requireExactly(sent);
        hash.requireExactly(aa);
        return "two tags of five, one of two with equal hashes, and all";
    }

    private static Message numbered(String topic, int i) {
        Message message = message(topic, i % 2 == 0 ? "Even" : "Odd", "k-" + i);
        message.putUserProperty("a", String.valueOf(i));
        message.putUserProperty("region", REGIONS[i % 3]);
        message.putUserProperty("half", String.valueOf(i / 2.0));
        message.putUserProperty("flag", String.valueOf(i % 5 == 0));
        if (i % 2 == 0) {
            message.putUserProperty("even", "yes");
        }
        return message;
    }

    private static Set<String> keys(IntPredicate predicate) {
        return IntStream.range(0, MESSAGES).filter(predicate).mapToObj(i -> "k-" + i).collect(Collectors.toCollection(TreeSet::new));
    }

    private static String sqlPush(Fixture f) throws Exception {
        String topic = f.topic(4);
        DefaultMQPushConsumer consumer = f.push(f.group());
        consumer.subscribe(topic, MessageSelector.bySql("a BETWEEN 5 AND 20 AND region IN ('x', 'z') AND even IS NULL"));
        Inbox inbox = new Inbox();
        f.collect(consumer, inbox);
        for (int i = 0; i < MESSAGES; i++) {
            f.send(numbered(topic, i));
        }
        Set<String> wanted = keys(i -> i >= 5 && i <= 20 && i % 3 != 1 && i % 2 == 1);
        inbox.awaitExactly(wanted, SOON_MS);
        return wanted.size() + " of " + MESSAGES + " messages passed";
    }

    private static Map<String, IntPredicate> expressions() {
        Map<String, IntPredicate> all = new LinkedHashMap<>();
        all.put("a > 10", i -> i > 10);
        all.put("a >= 10 AND a <= 12", i -> i >= 10 && i <= 12);
        all.put("10 < a", i -> i > 10);
        all.put("a <> 5", i -> i != 5);
        all.put("-1 < a", i -> true);
        all.put("a BETWEEN 5 AND 8", i -> i >= 5 && i <= 8);
        all.put("a NOT BETWEEN 5 AND 8", i -> i < 5 || i > 8);
        all.put("half > 2.5 and half < 4.0", i -> i > 5 && i < 8);
        all.put("half < 4", i -> false); // a property that is no integer is not compared with one
        all.put("region = 'x'", i -> i % 3 == 0);
        all.put("region <> 'x'", i -> i % 3 != 0);
        all.put("region IN ('x', 'y')", i -> i % 3 != 2);
        all.put("region NOT IN ('x')", i -> i % 3 != 0);
        all.put("even IS NULL", i -> i % 2 == 1);
        all.put("even IS NOT NULL AND a < 10", i -> i % 2 == 0 && i < 10);
        all.put("NOT (a > 3) OR region = 'z'", i -> i <= 3 || i % 3 == 2);
        all.put("region = 'x' OR region = 'y' AND a < 6", i -> i % 3 == 0 || i % 3 == 1 && i < 6);
        all.put("flag = TRUE", i -> i % 5 == 0);
        all.put("flag = FALSE AND a < 4", i -> i % 5 != 0 && i < 4);
        all.put("TAGS = 'Even'", i -> i % 2 == 0);
        all.put("missing = 1 OR a = 3", i -> i == 3);
        all.put("NOT missing = 1", i -> false);
        all.put("region CONTAINS 'y'", i -> i % 3 == 1);
        all.put("even STARTSWITH 'ye' AND even ENDSWITH 's'", i -> i % 2 == 0);
        return all;
    }

    /** The client refuses to ask for SQL92 until a heartbeat has told it the broker's version. */
    private static void awaitKnown(DefaultMQPullConsumer consumer, MessageQueue queue) throws InterruptedException {
        Fixture.await(2 * SOON_MS, "the client to know the broker's version", () -> {
            consumer.pull(queue, MessageSelector.bySql("a = 1"), 0, 32);
            return true;
        });
    }

    private static String sqlGrammar(Fixture f) throws Exception {
        String topic = f.topic(1);
        for (int i = 0; i < MESSAGES; i++) {
            f.send(numbered(topic, i), 0);
        }
        DefaultMQPullConsumer consumer = f.pull(f.group());
        awaitKnown(consumer, f.queue(topic, 0));
        Map<String, IntPredicate> expressions = expressions();
        StringBuilder wrong = new StringBuilder();
        expressions.forEach((sql, predicate) -> {
            String outcome = difference(consumer, f.queue(topic, 0), sql, keys(predicate));
            if (outcome != null) {
                wrong.append(wrong.isEmpty() ? "" : "; ").append(sql).append(": ").append(outcome);
            }
        });
        require(wrong.isEmpty(), "%s", wrong);
        return expressions.size() + " expressions over " + MESSAGES + " messages";
    }

    /** @return null when exactly the wanted messages pass */
    private static String difference(DefaultMQPullConsumer consumer, MessageQueue queue, String sql, Set<String> wanted) {
        Set<String> passed = new TreeSet<>();
        try {
            long offset = 0;
            while (offset < MESSAGES) {
                PullResult result = consumer.pull(queue, MessageSelector.bySql(sql), offset, 32);
                if (result.getMsgFoundList() != null) {
                    result.getMsgFoundList().forEach(m -> passed.add(new String(m.getBody(), StandardCharsets.UTF_8)));
                }
                require(result.getNextBeginOffset() > offset, "no progress behind %d: %s", offset, result);
                offset = result.getNextBeginOffset();
            }
        } catch (Exception e) {
            return e.toString();
        }
        return passed.equals(wanted) ? null : passed.size() + " passed, " + wanted.size() + " wanted";
    }

    /** What the grammar does not have, and a comparison of strings by size, which the original refuses as well. */
    private static final List<String> BROKEN = List.of(
            "a >", "a = 1 AND", "(a = 1", "a = 'x", "a IN ()", "a IN (1, 2)", "= 1", "a = NULL", "a BETWEEN 1",
            "a BETWEEN 5 AND 3", "1", "region > 'x'");

    private static String sqlRejected(Fixture f) throws Exception {
        String topic = f.topic(1);
        for (String sql : BROKEN) {
            DefaultMQPushConsumer consumer = f.push(f.group());
            consumer.subscribe(topic, MessageSelector.bySql(sql));
            try {
                f.collect(consumer, new Inbox());
                require(false, "a consumer with '%s' started", sql);
            } catch (MQClientException e) {
                require(e.getResponseCode() == PARSE_FAILED, "the start with '%s' fails with %s", sql, e);
            }
        }
        return BROKEN.size() + " broken expressions refused with code 23 at the consumer's start";
    }

    private static String sqlRejectedByPull(Fixture f) throws Exception {
        String topic = f.topic(1);
        f.send(numbered(topic, 1), 0);
        DefaultMQPullConsumer consumer = f.pull(f.group());
        awaitKnown(consumer, f.queue(topic, 0));
        for (String sql : BROKEN) {
            try {
                PullResult result = consumer.pull(f.queue(topic, 0), MessageSelector.bySql(sql), 0, 32);
                require(result.getMsgFoundList() == null, "a pull with '%s' gives messages, unfiltered", sql);
                require(false, "a pull with '%s' gives %s", sql, result.getPullStatus());
            } catch (MQBrokerException e) {
                require(e.getResponseCode() == PARSE_FAILED, "a pull with '%s' gives %s", sql, e);
            }
        }
        return BROKEN.size() + " broken expressions refused with code 23";
    }
}
