package main

// The leader is killed while each of these is in the middle of its work. What was acknowledged must arrive.

import (
	"context"
	"fmt"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

const (
	before = 100
	after  = 100
	// clients ask for routes every 30 s, and until then talk to the leader they know
	moved = 75 * time.Second
	// how often the client commits, and a little more
	persistPeriod = 6 * time.Second
)

func init() {
	cases["failover/concurrent"] = failoverConcurrent
	cases["failover/orderly"] = failoverOrderly
	cases["failover/retry"] = failoverRetry
	cases["failover/levels"] = failoverLevels
}

// sendOverKill sends, has the leader killed, and sends until that works again. It returns the acknowledged keys.
func (f *fixture) sendOverKill(topic string) []string {
	acknowledged := f.sendInTurn(topic, "before", before)
	f.kill.await()
	deadline := time.Now().Add(moved)
	for i, worked := 0, 0; worked < after; i++ {
		require(time.Now().Before(deadline), "after %v only %d sends were acknowledged", moved, worked)
		key := fmt.Sprintf("after-%d", i)
		message := newMessage(topic, "", key)
		message.Queue = f.queue(topic, i%queues)
		if _, err := f.trySend(message); err != nil {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		acknowledged = append(acknowledged, key)
		worked++
	}
	return acknowledged
}

func failoverConcurrent(f *fixture) string {
	topic, group, in := f.topic(queues), f.group(), newInbox()
	c := f.collect(group, topic, "*", in)
	acknowledged := f.sendOverKill(topic)
	in.awaitKeys(acknowledged, moved)
	time.Sleep(persistPeriod)
	must(c.Shutdown(), "shutdown")
	restarted := newInbox()
	f.collect(group, topic, "*", restarted)
	time.Sleep(2 * quiet)
	require(len(restarted.all()) == 0, "a member that came after was given %d messages again", len(restarted.all()))
	return fmt.Sprintf("%d acknowledged, all received, %d given again, offsets kept", len(acknowledged), in.again())
}

func failoverOrderly(f *fixture) string {
	topic, group, w := f.topic(queues), f.group(), newWatch()
	f.orderly(group, topic, w.listener("a", never))
	f.orderly(group, topic, w.listener("b", never))
	acknowledged := f.sendOverKill(topic)
	w.in.awaitKeys(acknowledged, moved)
	w.requireOrder()
	return fmt.Sprintf("%d acknowledged, all received in order, never two members on one queue, %d given again",
		len(acknowledged), w.in.again())
}

func failoverRetry(f *fixture) string {
	topic, group, tried, done := f.topic(queues), f.group(), newInbox(), newInbox()
	f.introduce(group)
	f.push(group, topic, byTags("*"), func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		if messages[0].ReconsumeTimes == 0 {
			tried.add(messages[0])
			concurrently, _ := primitive.GetConcurrentlyCtx(ctx)
			concurrently.DelayLevelWhenNextConsume = 2
			return consumer.ConsumeRetryLater, nil
		}
		done.add(messages[0])
		return consumer.ConsumeSuccess, nil
	})
	keys := f.sendMany(topic, "k", before)
	tried.awaitKeys(keys, soon)
	f.kill.await()
	done.awaitKeys(keys, moved)
	return fmt.Sprintf("%d failed before the kill, all given again after it", len(keys))
}

// Delayed messages wait while the leader dies; afterwards the topic itself must hold each of them once.
func failoverLevels(f *fixture) string {
	topic, in := f.topic(1), newInbox()
	f.collect(f.group(), topic, "*", in)
	var keys []string
	for i := range before {
		key := fmt.Sprintf("k-%d", i)
		f.send(newMessage(topic, "", key).WithDelayTimeLevel(2 + i%2))
		keys = append(keys, key)
	}
	f.kill.await()
	in.awaitKeys(keys, moved)
	time.Sleep(quiet)
	stored := newInbox()
	for _, message := range f.readAll(topic, 0) {
		stored.add(message)
	}
	stored.requireExactly(keys)
	return fmt.Sprintf("%d waited, each is in the topic once, %d given again", len(keys), in.again())
}
