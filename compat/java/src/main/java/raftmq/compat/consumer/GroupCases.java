package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;
import static raftmq.compat.consumer.Fixture.NOTIFIED_MS;
import static raftmq.compat.consumer.Fixture.QUIET_MS;
import static raftmq.compat.consumer.Fixture.SOON_MS;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.common.message.MessageQueue;

/** Members that come and go, and what operators see of them. */
final class GroupCases {
    private static final int QUEUES = 8;
    /** Response code CONSUMER_NOT_ONLINE. */
    private static final int NOT_ONLINE = 206;

    private GroupCases() {}

    static void addTo(Map<String, Case> cases) {
        cases.put("groups/join-leave", GroupCases::joinLeave);
        cases.put("groups/crash", GroupCases::crash);
        cases.put("groups/connections", GroupCases::connections);
        cases.put("groups/running-info", GroupCases::runningInfo);
        cases.put("groups/conflict", GroupCases::conflict);
        cases.put("groups/disabled", GroupCases::disabled);
    }

    /** The client's default strategy, which remembers how many queues of one topic it gave to this member. */
    static final class Share extends AllocateMessageQueueAveragely {
        private final String topic;
        private volatile Set<Integer> queues = Set.of();

        Share(String topic) {
            this.topic = topic;
        }

        @Override
        public List<MessageQueue> allocate(String group, String self, List<MessageQueue> all, List<String> members) {
            List<MessageQueue> mine = super.allocate(group, self, all, members);
            if (all.get(0).getTopic().equals(topic)) {
                queues = mine.stream().map(MessageQueue::getQueueId).collect(Collectors.toUnmodifiableSet());
            }
            return mine;
        }

        int size() {
            return queues.size();
        }

        /** Whether these members have all the queues, none of them twice. */
        static boolean complete(int queues, Share... members) {
            Set<Integer> union = new TreeSet<>();
            int sum = 0;
            for (Share member : members) {
                union.addAll(member.queues);
                sum += member.size();
            }
            return union.size() == queues && sum == queues;
        }
    }

    private static DefaultMQPushConsumer member(Fixture f, String group, String topic, Share share, Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = f.push(group);
        consumer.setAllocateMessageQueueStrategy(share);
        consumer.subscribe(topic, "*");
        f.collect(consumer, inbox);
        return consumer;
    }

    private static String joinLeave(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        Inbox inbox = new Inbox();
        Share first = new Share(topic);
        Share second = new Share(topic);
        member(f, group, topic, first, inbox);
        Fixture.await(SOON_MS, "the only member to have all queues", () -> first.size() == QUEUES);
        List<String> keys = new ArrayList<>(f.send(topic, "alone", 40));

        DefaultMQPushConsumer other = member(f, group, topic, second, inbox);
        long joinMs = Fixture.await(NOTIFIED_MS, "two members to share the queues",
                () -> first.size() == QUEUES / 2 && Share.complete(QUEUES, first, second));
        keys.addAll(f.send(topic, "two", 40));
        inbox.awaitKeys(keys, SOON_MS);

        other.shutdown();
        long leaveMs = Fixture.await(NOTIFIED_MS, "the one that stays to have all queues", () -> first.size() == QUEUES);
        keys.addAll(f.send(topic, "after", 40));
        inbox.awaitKeys(keys, SOON_MS);
        return "shared within " + joinMs + " ms, taken over within " + leaveMs + " ms";
    }

    private static String crash(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        Share share = new Share(topic);
        member(f, group, topic, share, new Inbox());
        Process process = Child.member(f.nameServers(), group, topic);
        f.closeLater(process::destroyForcibly);
        Fixture.await(SOON_MS, "two members to share the queues", () -> share.size() == QUEUES / 2);
        process.destroyForcibly().waitFor();
        long ms = Fixture.await(NOTIFIED_MS, "the one that lives to have all queues", () -> share.size() == QUEUES);
        return "taken over within " + ms + " ms";
    }

    private static String connections(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        DefaultMQPushConsumer one = f.collect(group, topic, "TagA || TagB", new Inbox());
        DefaultMQPushConsumer two = f.collect(group, topic, "TagA || TagB", new Inbox());
        String first = Fixture.clientId(one);
        String second = Fixture.clientId(two);
        var connection = f.suite().admin().examineConsumerConnectionInfo(group);
        Set<String> ids = connection.getConnectionSet().stream().map(c -> c.getClientId())
                .collect(Collectors.toCollection(TreeSet::new));
        require(ids.equals(new TreeSet<>(Set.of(first, second))), "members %s and %s, reported %s", first, second, ids);
        require(connection.getConnectionSet().stream().allMatch(c -> c.getClientAddr().startsWith("127.0.0.1:")
                && c.getLanguage().name().equals("JAVA") && c.getVersion() > 0), "addresses, languages or versions are wrong");
        var subscription = connection.getSubscriptionTable().get(topic);
        require(subscription != null && subscription.getSubString().equals("TagA || TagB")
                && subscription.getTagsSet().equals(Set.of("TagA", "TagB")), "subscription %s", subscription);
        require(connection.getConsumeType().name().equals("CONSUME_PASSIVELY")
                && connection.getMessageModel().name().equals("CLUSTERING")
                && connection.getConsumeFromWhere().name().equals("CONSUME_FROM_FIRST_OFFSET"),
                "type %s, model %s, from %s", connection.getConsumeType(), connection.getMessageModel(),
                connection.getConsumeFromWhere());
        one.shutdown();
        two.shutdown();
        try {
            f.suite().admin().examineConsumerConnectionInfo(group);
            require(false, "a group without members has connections");
        } catch (MQBrokerException e) {
            require(e.getResponseCode() == NOT_ONLINE, "a group without members gives code %d", e.getResponseCode());
        }
        return "two members with addresses, versions and subscriptions; none online is code 206";
    }

    private static String runningInfo(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        Inbox inbox = new Inbox();
        String id = Fixture.clientId(f.collect(group, topic, "*", inbox));
        inbox.awaitKeys(f.send(topic, "k", 40), SOON_MS);
        var info = f.suite().admin().getConsumerRunningInfo(group, id, true);
        long queues = info.getMqTable().keySet().stream().filter(q -> q.getTopic().equals(topic)).count();
        require(queues == QUEUES, "%d queues of the topic reported, %d wanted", queues, QUEUES);
        require(info.getSubscriptionSet().stream().anyMatch(s -> s.getTopic().equals(topic)), "no subscription reported");
        require(info.getJstack() != null && info.getJstack().contains("ConsumeMessageThread"), "no stacks reported");
        return "queues, subscriptions and stacks of the member";
    }

    private static String conflict(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        String first = Fixture.clientId(f.collect(group, topic, "TagA", new Inbox()));
        String second = Fixture.clientId(f.collect(group, topic, "TagB", new Inbox()));
        require(tags(f, group, first, topic).equals(Set.of("TagA")) && tags(f, group, second, topic).equals(Set.of("TagB")),
                "subscriptions to %s and %s", tags(f, group, first, topic), tags(f, group, second, topic));
        // it judges the subscriptions only of members that have run for two minutes
        String printed = f.mqadmin(first, "consumerStatus", "-g", group);
        require(printed.contains(second), "consumerStatus lists one of two members: %s", printed);
        return "consumerStatus lists both, each member's running info has its own tags";
    }

    private static Set<String> tags(Fixture f, String group, String clientId, String topic) throws Exception {
        return f.suite().admin().getConsumerRunningInfo(group, clientId, false).getSubscriptionSet().stream()
                .filter(s -> s.getTopic().equals(topic)).flatMap(s -> s.getTagsSet().stream()).collect(Collectors.toSet());
    }

    private static String disabled(Fixture f) throws Exception {
        String topic = f.topic(QUEUES);
        String group = f.group();
        f.updateGroup(group, "-s", "false");
        Inbox inbox = new Inbox();
        f.collect(group, topic, "*", inbox);
        List<String> keys = f.send(topic, "k", 20);
        Thread.sleep(QUIET_MS);
        require(inbox.size() == 0, "%d messages arrived though the group may not consume", inbox.size());
        f.updateGroup(group, "-s", "true");
        inbox.awaitKeys(keys, SOON_MS);
        inbox.requireExactly(keys);
        return "nothing while disabled, all " + keys.size() + " after";
    }
}
