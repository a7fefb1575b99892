package raftmq.compat.consumer;

/** One check of the consumer suite. It has its own topics and groups and knows no other case. */
@FunctionalInterface
interface Case {
    /**
     * @return what was seen, in a few words
     * @throws CaseFailure when the broker or the client did something else than it should
     */
    String run(Fixture fixture) throws Exception;
}
