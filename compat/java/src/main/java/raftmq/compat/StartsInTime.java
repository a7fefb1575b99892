package raftmq.compat;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;

/**
 * Starts push consumers one after another, each in a new group, and counts those that get no message within 4 s.
 *
 * <p>Arguments: how many for each cluster, then the name servers of each. The clusters take turns, so that what else
 * the machine does meets them alike. One line for each cluster, with tabs between: its name servers, starts, how many
 * were late, milliseconds until the first message at the median and at most ("late" where it was late). Standard error
 * has a line for each start as it goes: its number, name servers, milliseconds or "late". Exit code 0 when all could be
 * started, 2 otherwise.
 */
public final class StartsInTime {
    private static final long LATE_MS = 4000;
    private static final int MESSAGES = 8;

    private final String nameServers;
    private final String topic;
    private final List<Long> servedMs = new ArrayList<>();
    private int late;

    private StartsInTime(String nameServers, String topic) throws Exception {
        this.nameServers = nameServers;
        this.topic = topic;
        DefaultMQProducer producer = new DefaultMQProducer(topic);
        producer.setNamesrvAddr(nameServers);
        producer.setInstanceName("producer-" + topic);
        producer.start();
        for (int i = 0; i < MESSAGES; i++) {
            producer.send(new Message(topic, new byte[] {1}));
        }
        producer.shutdown();
    }

    private void start(int number) throws Exception {
        CountDownLatch served = new CountDownLatch(1);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(topic + "-" + number);
        consumer.setNamesrvAddr(nameServers);
        consumer.setInstanceName(topic + "-" + number);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            served.countDown();
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        long start = System.nanoTime();
        consumer.start();
        String waited = "late";
        if (served.await(LATE_MS, TimeUnit.MILLISECONDS)) {
            long ms = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - start);
            servedMs.add(ms);
            waited = String.valueOf(ms);
        } else {
            late++;
        }
        System.err.println(String.join("\t", String.valueOf(number), nameServers, waited));
        consumer.shutdown();
    }

    private String result() {
        Collections.sort(servedMs);
        int starts = servedMs.size() + late;
        String median = starts / 2 < servedMs.size() ? String.valueOf(servedMs.get(starts / 2)) : "late";
        String longest = late == 0 ? String.valueOf(servedMs.get(starts - 1)) : "late";
        return String.join("\t", nameServers, String.valueOf(starts), String.valueOf(late), median, longest);
    }

    public static void main(String[] args) {
        if (args.length < 2 || !args[0].matches("[1-9][0-9]*")) {
            System.err.println("usage: StartsInTime STARTS NAMESRV...");
            System.exit(2);
        }
        int code = 2;
        try {
            String stamp = "Starts" + System.currentTimeMillis();
            List<StartsInTime> clusters = new ArrayList<>();
            for (int i = 1; i < args.length; i++) {
                clusters.add(new StartsInTime(args[i], stamp + "-" + i));
            }
            for (int number = 0; number < Integer.parseInt(args[0]); number++) {
                for (StartsInTime cluster : clusters) {
                    cluster.start(number);
                }
            }
            clusters.forEach(cluster -> System.out.println(cluster.result()));
            code = 0;
        } catch (Exception e) {
            e.printStackTrace();
        }
        System.exit(code);
    }
}
