package raftmq.compat.consumer;

import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.spring.annotation.ConsumeMode;
import org.apache.rocketmq.spring.annotation.MessageModel;
import org.apache.rocketmq.spring.annotation.RocketMQMessageListener;
import org.apache.rocketmq.spring.annotation.SelectorType;
import org.apache.rocketmq.spring.core.RocketMQListener;
import org.apache.rocketmq.spring.core.RocketMQPushConsumerLifecycleListener;
import org.springframework.core.env.Environment;

/** The listeners of the applications, as users write them: what a case wants of them is in properties. */
final class Listeners {
    static final String TOPIC = "${compat.topic}";
    static final String GROUP = "${compat.group}";
    static final String FILTER = "${compat.filter:*}";

    private Listeners() {}

    /** Where listeners put what they are given. It throws to be given it again. */
    @FunctionalInterface
    interface Sink {
        void given(MessageExt message);
    }

    @RocketMQMessageListener(topic = TOPIC, consumerGroup = GROUP, selectorExpression = FILTER)
    static class Concurrent implements RocketMQListener<MessageExt> {
        private final Sink sink;

        Concurrent(Sink sink) {
            this.sink = sink;
        }

        @Override
        public void onMessage(MessageExt message) {
            sink.given(message);
        }
    }

    @RocketMQMessageListener(topic = TOPIC, consumerGroup = GROUP, selectorType = SelectorType.SQL92, selectorExpression = FILTER)
    static class Sql extends Concurrent {
        Sql(Sink sink) {
            super(sink);
        }
    }

    @RocketMQMessageListener(topic = TOPIC, consumerGroup = GROUP, consumeMode = ConsumeMode.ORDERLY)
    static class Orderly extends Concurrent {
        Orderly(Sink sink) {
            super(sink);
        }
    }

    @RocketMQMessageListener(topic = TOPIC, consumerGroup = GROUP, delayLevelWhenNextConsume = 1, maxReconsumeTimes = 2)
    static class TwoRetries extends Concurrent {
        TwoRetries(Sink sink) {
            super(sink);
        }
    }

    @RocketMQMessageListener(topic = TOPIC, consumerGroup = GROUP, delayLevelWhenNextConsume = -1)
    static class NoRetry extends Concurrent {
        NoRetry(Sink sink) {
            super(sink);
        }
    }

    /** Broadcast members of one machine need names of their own, or they are one member. */
    @RocketMQMessageListener(topic = TOPIC, consumerGroup = GROUP, messageModel = MessageModel.BROADCASTING)
    static class Broadcast extends Concurrent implements RocketMQPushConsumerLifecycleListener {
        private final String instance;

        Broadcast(Sink sink, Environment environment) {
            super(sink);
            instance = environment.getRequiredProperty("compat.instance");
        }

        @Override
        public void prepareStart(DefaultMQPushConsumer consumer) {
            consumer.setInstanceName(instance);
        }
    }
}
