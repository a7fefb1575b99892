package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;
import static raftmq.compat.consumer.Fixture.QUIET_MS;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.BooleanSupplier;
import java.util.stream.Collectors;
import org.apache.rocketmq.common.message.MessageExt;

/** What one or more members of a group were given, in the order they were given it. */
final class Inbox {
    /** How many keys a failure names. */
    private static final int NAMED_KEYS_MAX = 8;

    /** One message given to a listener. Times are of this machine's clock, in milliseconds. */
    record Delivery(String key, MessageExt message, long atMs) {}

    private final List<Delivery> deliveries = new ArrayList<>();

    /** @return the key of the message, which is its body */
    synchronized String add(MessageExt message) {
        String key = new String(message.getBody(), StandardCharsets.UTF_8);
        deliveries.add(new Delivery(key, message, System.currentTimeMillis()));
        notifyAll();
        return key;
    }

    synchronized List<Delivery> deliveries() {
        return List.copyOf(deliveries);
    }

    synchronized int size() {
        return deliveries.size();
    }

    synchronized Set<String> keys() {
        return deliveries.stream().map(Delivery::key).collect(Collectors.toCollection(TreeSet::new));
    }

    /** @return how many deliveries were not the first of their message */
    synchronized int again() {
        return size() - keys().size();
    }

    List<Delivery> of(String key) {
        return deliveries().stream().filter(d -> d.key().equals(key)).toList();
    }

    /** Waits for a condition that depends on what arrived; false when the time is over first. */
    synchronized boolean await(long timeoutMs, BooleanSupplier condition) throws InterruptedException {
        long deadline = System.nanoTime() + timeoutMs * 1_000_000;
        while (!condition.getAsBoolean()) {
            long leftMs = (deadline - System.nanoTime()) / 1_000_000;
            if (leftMs <= 0) {
                return false;
            }
            wait(leftMs);
        }
        return true;
    }

    /** Waits until each of these keys has arrived at least once. */
    void awaitKeys(Collection<String> wanted, long timeoutMs) throws InterruptedException {
        await(timeoutMs, () -> keys().containsAll(wanted));
        Set<String> missing = new TreeSet<>(wanted);
        missing.removeAll(keys());
        require(missing.isEmpty(), "%d of %d messages did not arrive within %d ms: %s",
                missing.size(), wanted.size(), timeoutMs, named(missing));
    }

    /** Waits until each of these keys has arrived, and a while longer: they are all that arrives, each once. */
    void awaitExactly(Collection<String> wanted, long timeoutMs) throws InterruptedException {
        awaitKeys(wanted, timeoutMs);
        Thread.sleep(QUIET_MS);
        requireExactly(wanted);
    }

    /** Requires that what arrived is these keys, each once. */
    void requireExactly(Collection<String> wanted) {
        Map<String, Integer> times = new TreeMap<>();
        deliveries().forEach(d -> times.merge(d.key(), 1, Integer::sum));
        Set<String> foreign = new TreeSet<>(times.keySet());
        foreign.removeAll(wanted);
        require(foreign.isEmpty(), "%d messages that should not arrive did: %s", foreign.size(), named(foreign));
        Set<String> repeated = new TreeSet<>();
        times.forEach((key, n) -> {
            if (n > 1) {
                repeated.add(key + " x" + n);
            }
        });
        require(repeated.isEmpty(), "%d messages arrived more than once: %s", repeated.size(), named(repeated));
        require(times.size() == wanted.size(), "%d messages of %d arrived", times.size(), wanted.size());
    }

    static String named(Collection<String> keys) {
        String some = keys.stream().limit(NAMED_KEYS_MAX).collect(Collectors.joining(", "));
        return keys.size() > NAMED_KEYS_MAX ? some + ", ..." : some;
    }
}
