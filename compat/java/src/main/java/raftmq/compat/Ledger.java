package raftmq.compat;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Predicate;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * What was sent to one topic, what the broker acknowledged, and what one consumer group received of it.
 *
 * <p>Each message is known by its key, "mode/sequence". Its body starts with that key and its length and content follow
 * from it, so a body that was damaged on the way is noticed.
 */
final class Ledger {
    /** Property put on every message, to see that properties of the user's own come through. */
    static final String PROPERTY = "compat-key";
    /** Every one in this many bodies is longer than the 4 KiB from which the Java client compresses. */
    private static final int LARGE_EVERY = 100;
    private static final int LARGE_BODY_BYTES = 8 * 1024;
    private static final int BODY_BYTES = 128;
    /** How many of the keys in question a failed check names. */
    private static final int NAMED_KEYS_MAX = 10;

    private static final class Sent {
        final String mode;
        final long atNanos = System.nanoTime();
        volatile String place;
        volatile String uniqueId;

        Sent(String mode) {
            this.mode = mode;
        }
    }

    private static final class Receipt {
        final AtomicInteger times = new AtomicInteger();
        final long atNanos;
        final String place;
        final String uniqueId;

        Receipt(long atNanos, String place, String uniqueId) {
            this.atNanos = atNanos;
            this.place = place;
            this.uniqueId = uniqueId;
        }
    }

    private final Map<String, Sent> sent = new ConcurrentHashMap<>();
    private final Map<String, Receipt> received = new ConcurrentHashMap<>();
    private final Collection<String> damaged = new ConcurrentLinkedQueue<>();
    private final Collection<String> places = ConcurrentHashMap.newKeySet();

    static String key(String mode, int sequence) {
        return mode + "/" + sequence;
    }

    private static byte[] body(String key) {
        int sequence = Integer.parseInt(key.substring(key.indexOf('/') + 1));
        byte[] body = new byte[sequence % LARGE_EVERY == LARGE_EVERY - 1 ? LARGE_BODY_BYTES : BODY_BYTES];
        byte[] text = (key + ":").getBytes(StandardCharsets.UTF_8);
        for (int i = 0; i < body.length; i++) {
            body[i] = i < text.length ? text[i] : (byte) (sequence + i);
        }
        return body;
    }

    private static String place(int queueId, long queueOffset) {
        return "queue " + queueId + " offset " + queueOffset;
    }

    /** A message about to be sent. Its clock starts here. */
    Message outgoing(String topic, String tag, String mode, int sequence) {
        String key = key(mode, sequence);
        Message message = new Message(topic, tag, key, body(key));
        message.putUserProperty(PROPERTY, key);
        sent.put(key, new Sent(mode));
        return message;
    }

    /** The broker said where the message lies. A null id is not compared. */
    void acknowledged(String key, String uniqueId, int queueId, long queueOffset) {
        Sent entry = sent.get(key);
        entry.uniqueId = uniqueId;
        entry.place = place(queueId, queueOffset);
    }

    /** The consumer was given a message. */
    void received(MessageExt message) {
        String key = String.valueOf(message.getKeys());
        Receipt first = new Receipt(System.nanoTime(), place(message.getQueueId(), message.getQueueOffset()),
                message.getMsgId());
        Receipt receipt = received.computeIfAbsent(key, k -> first);
        receipt.times.incrementAndGet();
        if (receipt != first) {
            return;
        }
        places.add(receipt.place);
        if (!key.matches("[a-z-]+/[0-9]+")
                || !key.equals(message.getUserProperty(PROPERTY))
                || !Arrays.equals(body(key), message.getBody())) {
            damaged.add(key);
        }
    }

    /** Waits until every message whose key is wanted has been received, or until the time is over. */
    void awaitReceived(Predicate<String> wanted, long timeoutMs) throws InterruptedException {
        long deadline = System.nanoTime() + timeoutMs * 1_000_000;
        while (!received.keySet().containsAll(sent.keySet().stream().filter(wanted).toList())
                && System.nanoTime() < deadline) {
            Thread.sleep(50);
        }
    }

    /** Checks one mode: each of its messages received, in the place that was acknowledged; says duplicates. */
    void checkMode(Report report, String name, String mode) {
        List<String> missing = new ArrayList<>();
        List<String> misplaced = new ArrayList<>();
        int expected = 0;
        int duplicates = 0;
        for (Map.Entry<String, Sent> e : sent.entrySet()) {
            Sent message = e.getValue();
            if (!message.mode.equals(mode)) {
                continue;
            }
            expected++;
            Receipt receipt = received.get(e.getKey());
            if (receipt == null) {
                missing.add(e.getKey());
                continue;
            }
            duplicates += receipt.times.get() - 1;
            if (message.place != null && !message.place.equals(receipt.place)) {
                misplaced.add(e.getKey() + " acknowledged at " + message.place + " received at " + receipt.place);
            }
            if (message.uniqueId != null && !message.uniqueId.equals(receipt.uniqueId)) {
                misplaced.add(e.getKey() + " sent as " + message.uniqueId + " received as " + receipt.uniqueId);
            }
        }
        report.check(
                expected > 0 && missing.isEmpty() && misplaced.isEmpty(),
                name,
                "received " + (expected - missing.size()) + " of " + expected + ", duplicates " + duplicates
                        + named(", missing ", missing) + named(", misplaced ", misplaced));
    }

    /** Median time from send to receipt, in microseconds, of those messages of a mode that were received. */
    OptionalLong medianLatencyMicros(String mode) {
        long[] nanos = sent.entrySet().stream()
                .filter(e -> e.getValue().mode.equals(mode) && received.containsKey(e.getKey()))
                .mapToLong(e -> received.get(e.getKey()).atNanos - e.getValue().atNanos)
                .sorted()
                .toArray();
        return nanos.length == 0 ? OptionalLong.empty() : OptionalLong.of(nanos[nanos.length / 2] / 1000);
    }

    /** Checks what holds over all modes: nothing foreign, nothing damaged, no place given twice. */
    void checkWhole(Report report, String name, Predicate<String> wanted) {
        Set<String> foreign = new HashSet<>(received.keySet());
        foreign.removeIf(key -> sent.containsKey(key) && wanted.test(key));
        report.check(
                foreign.isEmpty() && damaged.isEmpty() && places.size() == received.size(),
                name,
                received.size() + " messages in " + places.size() + " places"
                        + named(", not wanted ", foreign) + named(", damaged ", damaged));
    }

    /** How many messages were received, repeats included. */
    int receipts() {
        return received.values().stream().mapToInt(r -> r.times.get()).sum();
    }

    /** How many of the messages sent are wanted. */
    long count(Predicate<String> wanted) {
        return sent.keySet().stream().filter(wanted).count();
    }

    /** Forgets receipts but not what was sent: the ledger of another consumer group on the same topic. */
    Ledger forAnotherGroup() {
        Ledger other = new Ledger();
        other.sent.putAll(sent);
        return other;
    }

    private static String named(String title, Collection<String> keys) {
        if (keys.isEmpty()) {
            return "";
        }
        return title + keys.size() + ": " + String.join("; ", keys.stream().sorted().limit(NAMED_KEYS_MAX).toList());
    }
}
