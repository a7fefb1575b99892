package raftmq.compat.consumer;

import static raftmq.compat.consumer.CaseFailure.require;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** Processes with the same JVM flags and jars as this one: mqadmin, and members that are to be killed. */
final class Child {
    private static final long SECONDS_MAX = 60;
    private static final String MQADMIN = "org.apache.rocketmq.tools.command.MQAdminStartup";

    private Child() {}

    static Process start(String mainClass, String... arguments) throws IOException {
        List<String> command = new ArrayList<>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.addAll(ManagementFactory.getRuntimeMXBean().getInputArguments());
        command.addAll(List.of("-XX:TieredStopAtLevel=1", "-cp", System.getProperty("java.class.path"), mainClass));
        command.addAll(List.of(arguments));
        // mqadmin leaves files where it runs
        File home = new File(System.getProperty("user.home"));
        return new ProcessBuilder(command).directory(home).redirectErrorStream(true).start();
    }

    /** Runs an mqadmin command to its end. It always exits with 0, so what it printed has to be looked at. */
    static String mqadmin(String... arguments) throws Exception {
        Process process = start(MQADMIN, arguments);
        try {
            process.getOutputStream().close();
            endAfter(process, SECONDS_MAX);
            return new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        } finally {
            process.destroyForcibly();
        }
    }

    /** A process that hangs must not hang the case: its output ends when it is killed. */
    private static void endAfter(Process process, long seconds) {
        process.onExit().completeOnTimeout(process, seconds, TimeUnit.SECONDS).thenAccept(Process::destroyForcibly);
    }

    /** Starts a {@link Member} and waits until it runs. The caller ends it. */
    static Process member(String nameServers, String group, String topic) throws IOException {
        Process process = start(Member.class.getName(), nameServers, group, topic);
        endAfter(process, SECONDS_MAX);
        BufferedReader output = new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8));
        StringBuilder printed = new StringBuilder();
        String line = output.readLine();
        while (line != null && !line.equals(Member.STARTED)) {
            printed.append(line).append('\n');
            line = output.readLine();
        }
        if (line == null) {
            process.destroyForcibly();
        }
        require(line != null, "the member's process ended while starting: %s", printed);
        return process;
    }
}
