package raftmq.compat.consumer;

import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/**
 * Everything a consumer can ask for, asked for by the official Java client, unmodified.
 *
 * <p>Arguments: name server addresses, cluster, broker name, a stamp that makes names unique, the file for the results,
 * the command that kills the group's leader (or "-"), then the ids of the cases to run; scripts/consumer-compat takes
 * them from compat/consumer-points.tsv. A result is a line of four fields with tabs between: id, ok or failed,
 * milliseconds, detail. Exit code 0 when every case was ok, 1 when one was not, 2 when the suite could not run.
 */
public final class Suite {
    /** Cases wait much more than they work. */
    private static final int CASES_AT_ONCE = 10;
    private static final long CASE_SECONDS_MAX = 150;
    private static final String FAILOVER = "failover/";

    private final String nameServers;
    private final String cluster;
    private final String brokerName;
    private final String stamp;
    private final PrintStream results;
    private final AtomicInteger instances = new AtomicInteger();
    private final DefaultMQProducer producer = new DefaultMQProducer("consumer-suite");
    private final DefaultMQAdminExt admin = new DefaultMQAdminExt();
    private final LeaderKill leaderKill;
    private volatile boolean failed;

    private Suite(String[] args, List<String> ids) throws Exception {
        nameServers = args[0];
        cluster = args[1];
        brokerName = args[2];
        stamp = args[3];
        results = new PrintStream(Files.newOutputStream(Path.of(args[4])), true, StandardCharsets.UTF_8);
        leaderKill = new LeaderKill(args[5], (int) ids.stream().filter(id -> id.startsWith(FAILOVER)).count());
    }

    public static void main(String[] args) {
        System.exit(run(args, cases()));
    }

    /** @return the exit code */
    static int run(String[] args, Map<String, Case> known) {
        if (args.length < 7) {
            System.err.println("usage: Suite NAMESRV CLUSTER BROKER_NAME STAMP RESULTS KILL_LEADER_COMMAND|- CASE...");
            return 2;
        }
        try {
            List<String> ids = List.of(args).subList(6, args.length);
            return new Suite(args, ids).run(ids, known) ? 0 : 1;
        } catch (Exception e) {
            e.printStackTrace();
            return 2;
        }
    }

    private static Map<String, Case> cases() {
        Map<String, Case> cases = new LinkedHashMap<>();
        GroupCases.addTo(cases);
        PullCases.addTo(cases);
        FilterCases.addTo(cases);
        OffsetCases.addTo(cases);
        RetryCases.addTo(cases);
        DelayCases.addTo(cases);
        OrderCases.addTo(cases);
        BroadcastCases.addTo(cases);
        ReplicaCases.addTo(cases);
        TraceCases.addTo(cases);
        FailoverCases.addTo(cases);
        return cases;
    }

    private boolean run(List<String> ids, Map<String, Case> known) throws Exception {
        producer.setNamesrvAddr(nameServers);
        producer.setInstanceName(nextInstance());
        producer.start();
        admin.setNamesrvAddr(nameServers);
        admin.setInstanceName(nextInstance());
        admin.start();

        runAll(ids.stream().filter(id -> !id.startsWith(FAILOVER)).toList(), known, CASES_AT_ONCE);
        // all at once: the leader is killed one time for all of them, and nothing else runs then
        List<String> failovers = ids.stream().filter(id -> id.startsWith(FAILOVER)).toList();
        runAll(failovers, known, failovers.size());
        return !failed;
    }

    private void runAll(List<String> ids, Map<String, Case> known, int atOnce) throws InterruptedException {
        if (ids.isEmpty()) {
            return;
        }
        ExecutorService runners = Executors.newFixedThreadPool(atOnce);
        ExecutorService bodies = Executors.newCachedThreadPool();
        List<Future<?>> running = new ArrayList<>();
        for (String id : ids) {
            running.add(runners.submit(() -> runOne(id, known.get(id), bodies)));
        }
        runners.shutdown();
        runners.awaitTermination(1, TimeUnit.HOURS);
        bodies.shutdownNow();
    }

    private void runOne(String id, Case body, ExecutorService bodies) {
        long start = System.nanoTime();
        boolean ok = false;
        String detail;
        try (Fixture fixture = new Fixture(this, id)) {
            if (body == null) {
                throw new CaseFailure("the suite has no such case");
            }
            Future<String> outcome = bodies.submit(() -> body.run(fixture));
            try {
                detail = outcome.get(CASE_SECONDS_MAX, TimeUnit.SECONDS);
                ok = true;
            } catch (TimeoutException e) {
                outcome.cancel(true);
                detail = "stopped after " + CASE_SECONDS_MAX + " s";
            } catch (java.util.concurrent.ExecutionException e) {
                detail = e.getCause() instanceof CaseFailure ? e.getCause().getMessage() : unexpected(id, e.getCause());
            }
        } catch (Exception e) {
            detail = unexpected(id, e);
        }
        report(id, ok, (System.nanoTime() - start) / 1_000_000, detail);
    }

    private static String unexpected(String id, Throwable e) {
        synchronized (System.err) {
            System.err.println(id + ":");
            e.printStackTrace();
        }
        return String.valueOf(e);
    }

    private synchronized void report(String id, boolean ok, long elapsedMs, String detail) {
        failed |= !ok;
        String line = detail.replaceAll("\\s+", " ");
        results.printf("%s\t%s\t%d\t%s%n", id, ok ? "ok" : "failed", elapsedMs, line);
        System.out.printf("%-4s %s: %s (%d ms)%n", ok ? "ok" : "FAIL", id, line, elapsedMs);
    }

    String nameServers() {
        return nameServers;
    }

    String cluster() {
        return cluster;
    }

    String brokerName() {
        return brokerName;
    }

    String stamp() {
        return stamp;
    }

    DefaultMQProducer producer() {
        return producer;
    }

    DefaultMQAdminExt admin() {
        return admin;
    }

    LeaderKill leaderKill() {
        return leaderKill;
    }

    /** Clients of one name in a process share their connections; each here gets its own. */
    String nextInstance() {
        return "suite-" + stamp + "-" + instances.incrementAndGet();
    }

    /** Address of the broker with id 0. */
    String leaderAddress() throws Exception {
        String address = brokerAddresses().get(0L);
        CaseFailure.require(address != null, "broker %s has no master", brokerName);
        return address;
    }

    /** Client addresses by broker id. */
    Map<Long, String> brokerAddresses() throws Exception {
        var broker = admin.examineBrokerClusterInfo().getBrokerAddrTable().get(brokerName);
        CaseFailure.require(broker != null, "broker %s is not registered", brokerName);
        return Map.copyOf(broker.getBrokerAddrs());
    }
}
