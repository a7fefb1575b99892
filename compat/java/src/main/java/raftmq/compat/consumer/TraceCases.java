package raftmq.compat.consumer;

import static raftmq.compat.consumer.Fixture.SOON_MS;
import static raftmq.compat.consumer.Fixture.message;

import java.nio.charset.StandardCharsets;
import java.util.Map;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** The client's message trace, which it sends to a topic of the broker. */
@SuppressWarnings("deprecation") // DefaultMQPullConsumer reads the traces
final class TraceCases {
    private static final String TOPIC = "RMQ_SYS_TRACE_TOPIC";

    private TraceCases() {}

    static void addTo(Map<String, Case> cases) {
        cases.put("trace/consumer", TraceCases::consumer);
    }

    private static String consumer(Fixture f) throws Exception {
        String topic = f.topic(1);
        String group = f.group();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group, true, TOPIC);
        consumer.setNamesrvAddr(f.nameServers());
        consumer.setInstanceName(f.suite().nextInstance());
        consumer.subscribe(topic, "*");
        Inbox inbox = new Inbox();
        f.closeLater(consumer::shutdown);
        f.collect(consumer, inbox);
        SendResult sent = f.send(message(topic, "Tag", "k"));
        inbox.awaitKeys(java.util.Set.of("k"), SOON_MS);
        Fixture.await(SOON_MS, "a route of " + TOPIC, () -> f.routeKnown(TOPIC));
        DefaultMQPullConsumer reader = f.pull(f.group());
        Fixture.await(SOON_MS, "what the consumer did before and after its listener in " + TOPIC, () -> {
            String traces = "";
            for (MessageQueue queue : reader.fetchSubscribeMessageQueues(TOPIC)) {
                for (MessageExt trace : f.readAll(reader, queue)) {
                    String text = new String(trace.getBody(), StandardCharsets.UTF_8);
                    if (text.contains(sent.getMsgId()) && text.contains(group)) {
                        traces += text;
                    }
                }
            }
            return traces.contains("SubBefore") && traces.contains("SubAfter");
        });
        return "the traces before and after the listener are in the trace topic";
    }
}
