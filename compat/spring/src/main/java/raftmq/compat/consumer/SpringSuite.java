package raftmq.compat.consumer;

/** The same as {@link Suite}, asked for by applications with rocketmq-spring. */
public final class SpringSuite {
    private SpringSuite() {}

    public static void main(String[] args) {
        System.exit(Suite.run(args, SpringCases.all()));
    }
}
