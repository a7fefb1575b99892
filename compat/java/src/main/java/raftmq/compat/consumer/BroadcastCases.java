package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;
import static raftmq.compat.consumer.Fixture.QUIET_MS;
import static raftmq.compat.consumer.Fixture.SOON_MS;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;

/** Groups whose members each get everything and keep their offsets themselves. */
final class BroadcastCases {
    private BroadcastCases() {}

    static void addTo(Map<String, Case> cases) {
        cases.put("broadcast/all", BroadcastCases::all);
        cases.put("broadcast/restart", BroadcastCases::restart);
        cases.put("broadcast/forbidden", BroadcastCases::forbidden);
    }

    private static DefaultMQPushConsumer member(Fixture f, String group, String topic, String instance, Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = f.push(group);
        consumer.setInstanceName(instance);
        var models = consumer.getMessageModel().getDeclaringClass().getEnumConstants(); // its package differs between 4.9 and 5
        consumer.setMessageModel(Arrays.stream(models).filter(m -> m.name().equals("BROADCASTING")).findFirst().orElseThrow());
        consumer.subscribe(topic, "*");
        f.collect(consumer, inbox);
        return consumer;
    }

    private static String all(Fixture f) throws Exception {
        String topic = f.topic(4);
        String group = f.group();
        Inbox first = new Inbox();
        Inbox second = new Inbox();
        member(f, group, topic, f.suite().nextInstance(), first);
        member(f, group, topic, f.suite().nextInstance(), second);
        List<String> keys = f.send(topic, "k", 100);
        first.awaitKeys(keys, SOON_MS);
        second.awaitKeys(keys, SOON_MS);
        Thread.sleep(QUIET_MS);
        first.requireExactly(keys);
        second.requireExactly(keys);
        return "100 messages at each of two members";
    }

    private static String restart(Fixture f) throws Exception {
        String topic = f.topic(4);
        String group = f.group();
        String instance = f.suite().nextInstance();
        Inbox first = new Inbox();
        DefaultMQPushConsumer consumer = member(f, group, topic, instance, first);
        first.awaitKeys(f.send(topic, "k", 60), SOON_MS);
        Thread.sleep(QUIET_MS); // the listener has seen the last message before its offset counts
        consumer.shutdown();
        List<String> meanwhile = new ArrayList<>(f.send(topic, "meanwhile", 20));
        Inbox second = new Inbox();
        member(f, group, topic, instance, second);
        second.awaitExactly(meanwhile, SOON_MS);
        return "the same member goes on by its local offsets";
    }

    private static String forbidden(Fixture f) throws Exception {
        String topic = f.topic(4);
        String group = f.group();
        f.updateGroup(group, "-d", "false");
        Inbox inbox = new Inbox();
        member(f, group, topic, f.suite().nextInstance(), inbox);
        f.send(topic, "k", 20);
        Thread.sleep(2 * QUIET_MS);
        require(inbox.size() == 0, "%d messages arrived though the group may not broadcast", inbox.size());
        return "nothing for a group that may not broadcast";
    }
}
