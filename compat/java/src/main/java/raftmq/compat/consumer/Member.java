package raftmq.compat.consumer;

import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;

/** A group member in a process of its own, for cases that kill it. Runs until its standard input ends. */
public final class Member {
    static final String STARTED = "member started";

    private Member() {}

    public static void main(String[] args) throws Exception {
        try {
            run(args[0], args[1], args[2]);
            System.exit(0);
        } catch (Exception e) {
            e.printStackTrace();
            System.exit(1);
        }
    }

    private static void run(String nameServers, String group, String topic) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(nameServers);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(
                (MessageListenerConcurrently) (messages, context) -> ConsumeConcurrentlyStatus.CONSUME_SUCCESS);
        consumer.start();
        System.out.println(STARTED);
        while (System.in.read() >= 0) {
            continue;
        }
    }
}
