package raftmq.compat;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.IntFunction;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;

/** Sends numbered messages to one topic in each of the ways the client knows, and checks what the broker answered. */
final class Sender {
    private static final int ASYNC_IN_FLIGHT_MAX = 256;
    private static final int BATCH_MESSAGES = 50;
    /** How long all outstanding asynchronous sends may take to answer; each alone gives up after the client's 3 s. */
    private static final long ASYNC_DRAIN_SECONDS = 60;
    /** A mode in which this many sends failed is given up: each failure may take seconds. */
    private static final int ERRORS_MAX = 100;
    static final String[] TAGS = {"TagA", "TagB", "TagC", "TagD"};

    private final DefaultMQProducer producer;
    private final String topic;
    private final String topicName;
    private final Ledger ledger;
    private final Report report;
    private final AtomicInteger acknowledged = new AtomicInteger();
    private final ConcurrentLinkedQueue<String> errors = new ConcurrentLinkedQueue<>();

    /** @param topicName what the report calls the topic */
    Sender(DefaultMQProducer producer, String topic, String topicName, Ledger ledger, Report report) {
        this.producer = producer;
        this.topic = topic;
        this.topicName = topicName;
        this.ledger = ledger;
        this.report = report;
    }

    void sync(String mode, int count) throws InterruptedException {
        oneByOne(mode, count, 0, i -> null);
    }

    void async(String mode, int count) throws InterruptedException {
        long start = begin();
        Semaphore free = new Semaphore(ASYNC_IN_FLIGHT_MAX);
        for (int i = 0; i < count && errors.size() < ERRORS_MAX; i++) {
            String key = Ledger.key(mode, i);
            free.acquire();
            try {
                producer.send(ledger.outgoing(topic, null, mode, i), new SendCallback() {
                    @Override
                    public void onSuccess(SendResult result) {
                        accept(key, result);
                        free.release();
                    }

                    @Override
                    public void onException(Throwable e) {
                        errors.add(key + ": " + e);
                        free.release();
                    }
                });
            } catch (InterruptedException e) {
                throw e;
            } catch (Exception e) {
                errors.add(key + ": " + e);
                free.release();
            }
        }
        if (!free.tryAcquire(ASYNC_IN_FLIGHT_MAX, ASYNC_DRAIN_SECONDS, TimeUnit.SECONDS)) {
            errors.add("no answer to some sends within " + ASYNC_DRAIN_SECONDS + " s");
        }
        end("send " + mode, count, start);
    }

    /** One-way sends are not acknowledged: whether they arrived is for the consumer to say. */
    void oneWay(String mode, int count) throws InterruptedException {
        long start = begin();
        for (int i = 0; i < count && errors.size() < ERRORS_MAX; i++) {
            try {
                producer.sendOneway(ledger.outgoing(topic, null, mode, i));
                acknowledged.incrementAndGet();
            } catch (InterruptedException e) {
                throw e;
            } catch (Exception e) {
                errors.add(Ledger.key(mode, i) + ": " + e);
            }
        }
        end("send " + mode, count, start);
    }

    /**
     * Sends in batches: one request, one queue, consecutive offsets starting with the one that is answered. Which unique
     * id a message of a batch ends up with differs between broker versions, so it is not compared.
     */
    void batches(String mode, int count) throws InterruptedException {
        long start = begin();
        for (int first = 0; first < count && errors.size() < ERRORS_MAX; first += BATCH_MESSAGES) {
            int size = Math.min(BATCH_MESSAGES, count - first);
            List<Message> batch = new ArrayList<>();
            for (int i = first; i < first + size; i++) {
                batch.add(ledger.outgoing(topic, null, mode, i));
            }
            try {
                SendResult result = producer.send(batch);
                acceptBatch(mode, first, size, result);
            } catch (InterruptedException e) {
                throw e;
            } catch (Exception e) {
                errors.add(Ledger.key(mode, first) + ": " + e);
            }
        }
        end("send " + mode, count, start);
    }

    /** Sends synchronously with the tags in turn. */
    void tagged(String mode, int count) throws InterruptedException {
        oneByOne(mode, count, 0, i -> TAGS[i % TAGS.length]);
    }

    /** Sends synchronously with a pause after each message, so that each finds the consumer's pull waiting. */
    void paced(String mode, int count, long pauseMs) throws InterruptedException {
        oneByOne(mode, count, pauseMs, i -> null);
    }

    private void oneByOne(String mode, int count, long pauseMs, IntFunction<String> tag)
            throws InterruptedException {
        long start = begin();
        for (int i = 0; i < count && errors.size() < ERRORS_MAX; i++) {
            try {
                accept(Ledger.key(mode, i), producer.send(ledger.outgoing(topic, tag.apply(i), mode, i)));
            } catch (InterruptedException e) {
                throw e;
            } catch (Exception e) {
                errors.add(Ledger.key(mode, i) + ": " + e);
            }
            if (pauseMs > 0) {
                Thread.sleep(pauseMs);
            }
        }
        end("send " + mode, count, start);
    }

    private void accept(String key, SendResult result) {
        if (result.getSendStatus() != SendStatus.SEND_OK) {
            errors.add(key + ": " + result.getSendStatus());
            return;
        }
        ledger.acknowledged(
                key, result.getMsgId(), result.getMessageQueue().getQueueId(), result.getQueueOffset());
        acknowledged.incrementAndGet();
    }

    private void acceptBatch(String mode, int first, int size, SendResult result) {
        String key = Ledger.key(mode, first);
        String[] uniqueIds = result.getMsgId().split(",");
        String[] offsetIds = result.getOffsetMsgId().split(",");
        if (result.getSendStatus() != SendStatus.SEND_OK) {
            errors.add(key + ": " + result.getSendStatus());
        } else if (uniqueIds.length != size || offsetIds.length != size) {
            errors.add(key + ": a batch of " + size + " was answered with " + uniqueIds.length + " message ids and "
                    + offsetIds.length + " offset ids");
        } else {
            for (int i = 0; i < size; i++) {
                ledger.acknowledged(
                        Ledger.key(mode, first + i),
                        null,
                        result.getMessageQueue().getQueueId(),
                        result.getQueueOffset() + i);
            }
            acknowledged.addAndGet(size);
        }
    }

    private long begin() {
        acknowledged.set(0);
        errors.clear();
        return System.nanoTime();
    }

    private void end(String name, int count, long startNanos) {
        long elapsedMs = (System.nanoTime() - startNanos) / 1_000_000;
        String first = errors.isEmpty() ? "" : ", " + errors.size() + " errors, the first: " + errors.peek();
        report.check(
                acknowledged.get() == count && errors.isEmpty(),
                topicName + " " + name,
                acknowledged.get() + " of " + count + " in " + elapsedMs + " ms" + first);
    }
}
