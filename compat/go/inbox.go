package main

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// one message given to a listener
type delivery struct {
	key     string
	message *primitive.MessageExt
	at      time.Time
	// as it was at that moment: the client counts up in the message itself
	reconsumeTimes int32
}

// What one or more members of a group were given, in the order they were given it.
type inbox struct {
	mutex      sync.Mutex
	deliveries []delivery
	// closed and made anew with each delivery
	changed chan struct{}
}

func newInbox() *inbox {
	return &inbox{changed: make(chan struct{})}
}

func (in *inbox) add(message *primitive.MessageExt) string {
	in.mutex.Lock()
	defer in.mutex.Unlock()
	key := string(message.Body)
	in.deliveries = append(in.deliveries, delivery{key, message, time.Now(), message.ReconsumeTimes})
	close(in.changed)
	in.changed = make(chan struct{})
	return key
}

func (in *inbox) listen(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
	for _, message := range messages {
		in.add(message)
	}
	return consumer.ConsumeSuccess, nil
}

func (in *inbox) all() []delivery {
	in.mutex.Lock()
	defer in.mutex.Unlock()
	return append([]delivery(nil), in.deliveries...)
}

func (in *inbox) of(key string) []delivery {
	var some []delivery
	for _, d := range in.all() {
		if d.key == key {
			some = append(some, d)
		}
	}
	return some
}

func (in *inbox) times() map[string]int {
	times := map[string]int{}
	for _, d := range in.all() {
		times[d.key]++
	}
	return times
}

// again says how many deliveries were not the first of their message.
func (in *inbox) again() int {
	return len(in.all()) - len(in.times())
}

// await waits for a condition that depends on what arrived; false when the time is over first.
func (in *inbox) await(most time.Duration, condition func() bool) bool {
	deadline := time.After(most)
	for {
		in.mutex.Lock()
		changed := in.changed
		in.mutex.Unlock()
		if condition() {
			return true
		}
		select {
		case <-changed:
		case <-deadline:
			return condition()
		}
	}
}

func (in *inbox) missing(wanted []string) []string {
	times := in.times()
	var missing []string
	for _, key := range wanted {
		if times[key] == 0 {
			missing = append(missing, key)
		}
	}
	return missing
}

// awaitKeys waits until each of these keys has arrived at least once.
func (in *inbox) awaitKeys(wanted []string, most time.Duration) {
	in.await(most, func() bool { return len(in.missing(wanted)) == 0 })
	missing := in.missing(wanted)
	require(len(missing) == 0, "%d of %d messages did not arrive within %v: %s", len(missing), len(wanted), most, named(missing))
}

// requireExactly requires that what arrived is these keys, each once.
func (in *inbox) requireExactly(wanted []string) {
	times := in.times()
	var repeated, foreign []string
	want := map[string]bool{}
	for _, key := range wanted {
		want[key] = true
	}
	for key, n := range times {
		if n > 1 {
			repeated = append(repeated, fmt.Sprintf("%s x%d", key, n))
		}
		if !want[key] {
			foreign = append(foreign, key)
		}
	}
	require(len(foreign) == 0, "%d messages that should not arrive did: %s", len(foreign), named(foreign))
	require(len(repeated) == 0, "%d messages arrived more than once: %s", len(repeated), named(repeated))
	require(len(times) == len(want), "%d messages of %d arrived", len(times), len(want))
}

func named(keys []string) string {
	sort.Strings(keys)
	if len(keys) > namedMax {
		return strings.Join(keys[:namedMax], ", ") + ", ..."
	}
	return strings.Join(keys, ", ")
}
