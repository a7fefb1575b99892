package raftmq.compat;

/** One line per check on standard output, and the number of checks that failed. */
final class Report {
    private final String label;
    private int failures;

    /** @param label put on each line, to tell client versions and encodings apart */
    Report(String label) {
        this.label = label;
    }

    void check(boolean passed, String name, String detail) {
        if (!passed) {
            failures++;
        }
        System.out.printf("%-4s %s: %s: %s%n", passed ? "ok" : "FAIL", label, name, detail);
    }

    void info(String name, String detail) {
        System.out.printf("     %s: %s: %s%n", label, name, detail);
    }

    int failures() {
        return failures;
    }
}
