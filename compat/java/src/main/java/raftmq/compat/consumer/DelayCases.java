package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;
import static raftmq.compat.consumer.Fixture.SOON_MS;
import static raftmq.compat.consumer.Fixture.message;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Messages for later: the levels of 4.x and the arbitrary times of 5.x. */
final class DelayCases {
    /** The original rounds arbitrary times down to whole seconds, and one that is whole to the second before. */
    private static final long EARLY_MS_MAX = 2_100;
    /** Far above what a broker needs, for a machine that is busy with other things. */
    private static final long LATE_MS_MAX = 5_000;
    private static final long[] LEVEL_MS = {1_000, 5_000, 10_000};
    private static final long LONGEST_MS = 10_000;
    private static final int MESSAGES = 60;

    private DelayCases() {}

    static void addTo(Map<String, Case> cases) {
        cases.put("delay/levels", f -> delayed(f, (message, i, now) -> {
            int level = i % LEVEL_MS.length;
            message.setDelayTimeLevel(level + 1);
            return now + LEVEL_MS[level];
        }));
        cases.put("delay/seconds", f -> delayed(f, (message, i, now) -> {
            long seconds = 1 + i % 5;
            set(message, "setDelayTimeSec", seconds);
            return now + 1_000 * seconds;
        }));
        cases.put("delay/milliseconds", f -> delayed(f, (message, i, now) -> {
            long delayMs = 500 + 73L * i;
            set(message, "setDelayTimeMs", delayMs);
            return now + delayMs;
        }));
        cases.put("delay/deliver-at", f -> delayed(f, (message, i, now) -> {
            long at = now + 500 + 73L * i;
            set(message, "setDeliverTimeMs", at);
            return at;
        }));
        cases.put("delay/past", f -> delayed(f, (message, i, now) -> {
            set(message, "setDeliverTimeMs", now - 60_000);
            return now;
        }));
        cases.put("delay/too-far", DelayCases::tooFar);
    }

    private interface Delay {
        /** Sets when message number i is to be delivered. @return that time, in milliseconds since the epoch */
        long set(Message message, int i, long nowMs) throws Exception;
    }

    /** Calls a method that the messages of 5.x have and those of 4.9 do not. */
    static void set(Message message, String method, long value) throws Exception {
        Message.class.getMethod(method, long.class).invoke(message, value);
    }

    private static String delayed(Fixture f, Delay delay) throws Exception {
        String topic = f.topic(4);
        Inbox inbox = new Inbox();
        f.collect(f.group(), topic, "Tag", inbox);
        Map<String, Long> due = new HashMap<>();
        Map<String, SendResult> sent = new HashMap<>();
        for (int i = 0; i < MESSAGES; i++) {
            Message message = message(topic, "Tag", "k-" + i);
            due.put("k-" + i, delay.set(message, i, System.currentTimeMillis()));
            sent.put("k-" + i, f.send(message));
        }
        inbox.awaitExactly(due.keySet(), LONGEST_MS + SOON_MS);

        List<Long> late = new ArrayList<>();
        for (Inbox.Delivery d : inbox.deliveries()) {
            MessageExt m = d.message();
            require(m.getTopic().equals(topic) && m.getMsgId().equals(sent.get(d.key()).getMsgId()) && m.getTags().equals("Tag"),
                    "sent %s, received %s", sent.get(d.key()), m);
            late.add(m.getStoreTimestamp() - due.get(d.key()));
        }
        late.sort(null);
        long earliest = late.get(0);
        long latest = late.get(late.size() - 1);
        require(earliest >= -EARLY_MS_MAX && latest <= LATE_MS_MAX, "in the topic from %d to %d ms after they were due", earliest, latest);
        return MESSAGES + " messages, each once, in the topic " + earliest + " to " + latest + " ms after they were due, median "
                + late.get(late.size() / 2) + " ms";
    }

    private static String tooFar(Fixture f) throws Exception {
        String topic = f.topic(1);
        Message message = message(topic, "Tag", "k");
        set(message, "setDelayTimeSec", 40L * 24 * 3_600);
        try {
            f.send(message);
        } catch (MQBrokerException e) {
            return "forty days ahead is refused with code " + e.getResponseCode();
        }
        throw new CaseFailure("a message forty days ahead was accepted");
    }
}
