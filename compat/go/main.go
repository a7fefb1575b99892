// Everything a consumer can ask for, asked for by the official Go client, unmodified.
//
// Arguments: name server addresses (separated by ";"), address of the leader, broker name, a stamp that makes names
// unique, the file for the results, the command that kills the group's leader (or "-"), then the ids of the cases to run;
// scripts/consumer-compat takes them from compat/consumer-points.tsv. A result is a line of four fields with tabs
// between: id, ok or failed, milliseconds, detail. Exit code 0 when every case was ok, 1 when one was not, 2 when the
// suite could not run.
package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

const (
	casesAtOnce   = 10 // they wait much more than they work
	caseMax       = 150 * time.Second
	failoverCases = "failover/"
)

// A check with topics and groups of its own. It says what was seen; what is otherwise than it should be is a panic of
// kind failure (see require).
type testCase func(f *fixture) string

var cases = map[string]testCase{}

// what the cases share
type suite struct {
	nameServers []string
	leader      string
	brokerName  string
	stamp       string
	kill        *leaderKill
	instances   atomic.Int64

	mutex   sync.Mutex
	results *bufio.Writer
	failed  bool
}

func main() {
	if len(os.Args) == 5 && os.Args[1] == "member" {
		member(os.Args[2], os.Args[3], os.Args[4])
		return
	}
	if len(os.Args) < 8 {
		fmt.Fprintln(os.Stderr, "usage: consumer-compat NAMESRV LEADER BROKER_NAME STAMP RESULTS KILL_LEADER_COMMAND|- CASE...")
		os.Exit(2)
	}
	log := filepath.Join(filepath.Dir(os.Args[5]), "go-client.log")
	if err := rlog.SetOutputPath(log); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	file, err := os.Create(os.Args[5])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ids := os.Args[7:]
	first, last := split(ids)
	s := &suite{
		nameServers: strings.Split(os.Args[1], ";"),
		leader:      os.Args[2],
		brokerName:  os.Args[3],
		stamp:       os.Args[4],
		results:     bufio.NewWriter(file),
		kill:        newLeaderKill(os.Args[6], len(last)),
	}
	s.runAll(first, casesAtOnce)
	// all at once: the leader is killed one time for all of them, and nothing else runs then
	s.runAll(last, len(last))
	if s.failed {
		os.Exit(1)
	}
}

func split(ids []string) (first, last []string) {
	for _, id := range ids {
		if strings.HasPrefix(id, failoverCases) {
			last = append(last, id)
		} else {
			first = append(first, id)
		}
	}
	return first, last
}

func (s *suite) runAll(ids []string, atOnce int) {
	places := make(chan struct{}, max(atOnce, 1))
	var running sync.WaitGroup
	for _, id := range ids {
		places <- struct{}{}
		running.Add(1)
		go func() {
			defer running.Done()
			s.runOne(id)
			<-places
		}()
	}
	running.Wait()
}

type outcome struct {
	ok     bool
	detail string
}

func (s *suite) runOne(id string) {
	start := time.Now()
	f := newFixture(s, id)
	done := make(chan outcome, 1)
	go func() { done <- f.run(cases[id]) }()
	var result outcome
	select {
	case result = <-done:
	case <-time.After(caseMax):
		result = outcome{detail: fmt.Sprintf("stopped after %v", caseMax)}
	}
	f.close()
	s.report(id, result, time.Since(start))
}

func (f *fixture) run(body testCase) (result outcome) {
	defer func() {
		switch e := recover().(type) {
		case nil:
		case failure:
			result = outcome{detail: string(e)}
		default:
			fmt.Fprintf(os.Stderr, "%s: %v\n%s", f.name, e, debug.Stack())
			result = outcome{detail: fmt.Sprint(e)}
		}
	}()
	require(body != nil, "the suite has no such case")
	return outcome{ok: true, detail: body(f)}
}

func (s *suite) report(id string, result outcome, elapsed time.Duration) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	word, line := "ok", "ok  "
	if !result.ok {
		word, line = "failed", "FAIL"
		s.failed = true
	}
	detail := strings.Join(strings.Fields(result.detail), " ")
	fmt.Fprintf(s.results, "%s\t%s\t%d\t%s\n", id, word, elapsed.Milliseconds(), detail)
	if err := s.results.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Printf("%s %s: %s (%d ms)\n", line, id, detail, elapsed.Milliseconds())
}
