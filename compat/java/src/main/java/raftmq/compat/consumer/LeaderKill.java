package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.TimeUnit;

/** One killing of the leader, shared by all cases that want it: it happens when each of them is ready for it. */
final class LeaderKill {
    private static final long READY_SECONDS_MAX = 60;

    private final List<String> command;
    private final CyclicBarrier ready;
    private volatile String output = "";
    private volatile boolean killed;

    /**
     * @param command split at spaces; "-" when there is none
     * @param cases how many cases will wait
     */
    LeaderKill(String command, int cases) {
        this.command = command.equals("-") ? List.of() : List.of(command.split(" "));
        this.ready = cases == 0 ? null : new CyclicBarrier(cases, this::kill);
    }

    /** Returns when the leader has been killed. */
    void await() throws Exception {
        require(!command.isEmpty(), "no command to kill the leader with");
        ready.await(READY_SECONDS_MAX, TimeUnit.SECONDS);
        require(killed, "the leader was not killed: %s", output);
    }

    private void kill() {
        try {
            Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
            output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8).strip();
            killed = process.waitFor() == 0;
        } catch (Exception e) {
            output = e.toString();
        }
        System.out.println("     " + output);
    }
}
