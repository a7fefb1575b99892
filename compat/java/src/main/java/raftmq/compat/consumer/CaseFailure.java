package raftmq.compat.consumer;

/** What a case found to be otherwise than it should be. */
final class CaseFailure extends RuntimeException {
    private static final long serialVersionUID = 1L;

    CaseFailure(String message) {
        super(message);
    }

    static void require(boolean holds, String format, Object... arguments) {
        if (!holds) {
            throw new CaseFailure(String.format(format, arguments));
        }
    }
}
