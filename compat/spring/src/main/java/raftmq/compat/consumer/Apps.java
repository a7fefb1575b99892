package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;

import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.spring.core.RocketMQTemplate;
import org.apache.rocketmq.spring.support.RocketMQHeaders;
import org.springframework.boot.Banner;
import org.springframework.boot.SpringBootConfiguration;
import org.springframework.boot.WebApplicationType;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.context.ApplicationContextInitializer;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.messaging.Message;
import org.springframework.messaging.support.MessageBuilder;

/** The Spring Boot applications of one case, each with a context of its own; all are closed when the case ends. */
final class Apps {
    private final Fixture fixture;
    private RocketMQTemplate template;

    Apps(Fixture fixture) {
        this.fixture = fixture;
    }

    @SpringBootConfiguration
    @EnableAutoConfiguration
    static class Application {}

    private ConfigurableApplicationContext run(List<Class<?>> sources, Listeners.Sink sink, List<String> properties) {
        List<String> arguments = new ArrayList<>(properties);
        arguments.add("--rocketmq.name-server=" + fixture.nameServers());
        ApplicationContextInitializer<ConfigurableApplicationContext> initializer =
                context -> context.getBeanFactory().registerSingleton("sink", sink);
        ConfigurableApplicationContext context = new SpringApplicationBuilder(sources.toArray(Class<?>[]::new))
                .web(WebApplicationType.NONE)
                .bannerMode(Banner.Mode.OFF)
                .logStartupInfo(false)
                .registerShutdownHook(false)
                .initializers(initializer)
                .run(arguments.toArray(String[]::new));
        fixture.closeLater(context);
        return context;
    }

    /** Starts an application with one listener. Properties are written as `compat.filter=TagA`. */
    ConfigurableApplicationContext listen(
            Class<?> listener, String group, String topic, Listeners.Sink sink, String... properties) {
        List<String> arguments = new ArrayList<>(List.of("--compat.group=" + group, "--compat.topic=" + topic));
        for (String property : properties) {
            arguments.add("--" + property);
        }
        return run(List.of(Application.class, listener), sink, arguments);
    }

    /** The template of an application that sends. */
    RocketMQTemplate template() {
        if (template == null) {
            Listeners.Sink none = message -> {};
            template = run(List.of(Application.class), none, List.of("--rocketmq.producer.group=" + fixture.group()))
                    .getBean(RocketMQTemplate.class);
        }
        return template;
    }

    static Message<String> message(String key) {
        return MessageBuilder.withPayload(key).setHeader(RocketMQHeaders.KEYS, key).build();
    }

    /** @param destination a topic, or a topic and a tag with a colon between */
    SendResult send(String destination, String key) {
        return sent(template().syncSend(destination, message(key)));
    }

    static SendResult sent(SendResult result) {
        require(result.getSendStatus() == SendStatus.SEND_OK, "a send ended with %s", result.getSendStatus());
        return result;
    }

    /** Sends messages with the keys PREFIX-0 and on over all queues of a topic. */
    List<String> send(String topic, String prefix, int count) {
        List<String> keys = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            send(topic + ":Tag", prefix + "-" + i);
            keys.add(prefix + "-" + i);
        }
        return keys;
    }
}
