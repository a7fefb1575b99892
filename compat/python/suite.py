"""What a consumer and a producer can ask for, asked for by the official C++ client through Python, unmodified.

Arguments: name server addresses (separated by ";"), address of the leader, broker name, a stamp that makes names unique,
the file for the results, the command that kills the group's leader (or "-"), then the ids of the cases to run;
scripts/consumer-compat takes them from compat/consumer-points.tsv. A result is a line of four fields with tabs between:
id, ok or failed, milliseconds, detail. Exit code 0 when every case was ok, 1 when one was not, 2 when the suite could
not run.

Each case runs in a process of its own: this client now and then aborts the process when one of its clients is shut down
(an uncaught boost::thread_interrupted), whatever the broker. Such a case is run again, and its detail says so.
"""

import os
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import cases
import member
from fixture import Fixture, Target
from inbox import Failure

CASES_AT_ONCE = 10  # they wait much more than they work
CASE_SECONDS_MAX = 150
RUNS_MAX = 3
VERDICT = "verdict"


class Suite:
    def __init__(self, target, results):
        self.target = target
        self.results = results
        self.lock = threading.Lock()
        self.failed = False

    def run(self, ids):
        with ThreadPoolExecutor(CASES_AT_ONCE) as places:
            list(places.map(self.run_one, ids))

    def run_one(self, id):
        start = time.monotonic()
        for run in range(1, RUNS_MAX + 1):
            ok, detail = self.process(id, run)
            if ok is not None:
                break
        if run > 1:
            detail += f" (run {run}: before, the client aborted)"
        self.report(id, bool(ok), detail, int((time.monotonic() - start) * 1000))

    def process(self, id, run):
        """Runs a case in a process of its own. None instead of a verdict: the process was aborted before it had one."""
        command = [sys.executable, sys.argv[0], "case", id, *self.target.arguments(f"{self.target.stamp}-{run}")]
        try:
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=CASE_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            return False, f"stopped after {CASE_SECONDS_MAX} s"
        for line in ended.stdout.splitlines():
            word, _, rest = line.partition("\t")
            if word == VERDICT:
                verdict, _, detail = rest.partition("\t")
                return verdict == "ok", detail
            print("     " + line, flush=True)
        return None, f"the process ended with code {ended.returncode} before the case had a verdict"

    def report(self, id, ok, detail, elapsed):
        with self.lock:
            self.failed |= not ok
            self.results.write(f"{id}\t{'ok' if ok else 'failed'}\t{elapsed}\t{detail}\n")
            self.results.flush()
            print(f"{'ok  ' if ok else 'FAIL'} {id}: {detail} ({elapsed} ms)", flush=True)


def run_case(id, target):
    with Fixture(target, id) as fixture:
        try:
            if id not in cases.CASES:
                raise Failure("the suite has no such case")
            verdict, detail = "ok", cases.CASES[id](fixture)
        except Failure as failure:
            verdict, detail = "failed", str(failure)
        except Exception as error:  # the case's verdict, whatever it was
            traceback.print_exc()
            verdict, detail = "failed", repr(error)
        # before the clients are shut down, which may abort the process
        print(VERDICT, verdict, " ".join(detail.split()), sep="\t", flush=True)
    return 0


def main(arguments):
    if arguments[:1] == ["member"] and len(arguments) == 4:
        return member.run(*arguments[1:])
    if arguments[:1] == ["case"] and len(arguments) == 6:
        return run_case(arguments[1], Target(*arguments[2:]))
    if len(arguments) < 7:
        print("usage: suite.py NAMESRV LEADER BROKER_NAME STAMP RESULTS KILL_LEADER_COMMAND|- CASE...", file=sys.stderr)
        return 2
    name_servers, leader, _, stamp, results, kill = arguments[:6]
    with open(results, "w", encoding="utf-8") as file:
        suite = Suite(Target(name_servers, leader, stamp, kill), file)
        suite.run(arguments[6:])
    return 1 if suite.failed else 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # without the client's destructors, which end clients a second time
    os._exit(code)
