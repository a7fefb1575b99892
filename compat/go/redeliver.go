package main

// Retries, dead letters, delays and order.

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

const (
	// how early a delay may end by the clocks' rounding, and how late on a busy machine, by the broker's time of storing
	earlyMax = 1_100 * time.Millisecond
	lateMax  = 6 * time.Second
	queues   = 4
	// this client gives no lock back when a rebalance takes a queue from it: the broker's lock has to expire, after 60 s,
	// and the other member asks every 20 s
	handedOver = 100 * time.Second
)

var levels = []time.Duration{time.Second, 5 * time.Second, 10 * time.Second}

func init() {
	cases["retry/growing"] = growing
	cases["retry/level"] = level
	cases["retry/dead-letter"] = deadLetter
	cases["retry/at-once-dead"] = atOnceDead
	cases["retry/send-back"] = sendBack
	cases["delay/levels"] = delayLevels
	cases["order/one-member"] = oneMember
	cases["order/suspend"] = suspend
	cases["order/dead-letter"] = orderDeadLetter
	cases["order/two-members"] = twoMembers
}

// failing starts a consumer that fails each message as long as its reconsume count is below failures.
func (f *fixture) failing(group, topic string, timesMax int32, failures int32, delayLevel func(times int32) int, in *inbox) {
	f.introduce(group)
	f.push(group, topic, byTags("*"), func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		message := messages[0]
		in.add(message)
		if message.ReconsumeTimes >= failures {
			return consumer.ConsumeSuccess, nil
		}
		concurrently, _ := primitive.GetConcurrentlyCtx(ctx)
		concurrently.DelayLevelWhenNextConsume = delayLevel(message.ReconsumeTimes)
		return consumer.ConsumeRetryLater, nil
	}, consumer.WithMaxReconsumeTimes(timesMax))
}

// requireRetries requires that a message came with reconsume counts 0, 1, ..., as itself, each time after its delay.
func requireRetries(in *inbox, topic string, sent *primitive.SendResult, delays ...time.Duration) string {
	tries := in.all()
	require(len(tries) == len(delays)+1, "it came %d times, %d wanted", len(tries), len(delays)+1)
	seen := ""
	for i, try := range tries {
		require(try.reconsumeTimes == int32(i), "try %d came with reconsumeTimes %d", i, try.reconsumeTimes)
		require(try.message.Topic == topic, "try %d came as a message of %s", i, try.message.Topic)
		require(try.message.MsgId == sent.MsgID, "sent as %s, try %d is %s", sent.MsgID, i, try.message.MsgId)
		if i > 0 {
			origin := try.message.GetProperty(primitive.PropertyOriginMessageId)
			require(origin == sent.OffsetMsgID, "try %d names %s as its origin, which is %s", i, origin, sent.OffsetMsgID)
			delay := time.UnixMilli(try.message.StoreTimestamp).Sub(tries[i-1].at)
			want := delays[i-1]
			require(delay > want-earlyMax && delay < want+lateMax, "try %d was due after %v, %v wanted", i, delay, want)
			if i > 1 {
				seen += ", "
			}
			seen += fmt.Sprint(delay.Milliseconds())
		}
	}
	return seen
}

func growing(f *fixture) string {
	topic, in := f.topic(1), newInbox()
	f.failing(f.group(), topic, -1, 2, func(int32) int { return 0 }, in)
	sent := f.send(newMessage(topic, "Tag", "k"))
	in.await(40*time.Second+soon, func() bool { return len(in.all()) == 3 })
	return "again after " + requireRetries(in, topic, sent, 10*time.Second, 30*time.Second) + " ms, the same message with reconsumeTimes 1, 2"
}

func level(f *fixture) string {
	topic, in := f.topic(1), newInbox()
	f.failing(f.group(), topic, -1, 3, func(times int32) int { return []int{1, 1, 2}[times] }, in)
	sent := f.send(newMessage(topic, "Tag", "k"))
	in.await(2*soon, func() bool { return len(in.all()) == 4 })
	return "levels 1, 1, 2: again after " + requireRetries(in, topic, sent, levels[0], levels[0], levels[1]) + " ms"
}

func deadLetter(f *fixture) string {
	topic, group, in := f.topic(1), f.group(), newInbox()
	f.failing(group, topic, 2, 1_000, func(int32) int { return 1 }, in)
	sent := f.send(newMessage(topic, "Tag", "k"))
	in.await(2*soon, func() bool { return len(in.all()) == 3 })
	requireRetries(in, topic, sent, levels[0], levels[0])
	f.requireOnly("%DLQ%"+group, sent)
	time.Sleep(quiet)
	require(len(in.all()) == 3, "it came %d times, 3 wanted", len(in.all()))
	return "three tries with two retries allowed, then in the dead-letter topic with its ids"
}

// requireOnly waits for a message in queue 0 of a topic that the broker makes, and requires that it is the one that was
// sent, and alone.
func (f *fixture) requireOnly(topic string, sent *primitive.SendResult) *primitive.MessageExt {
	f.awaitRoute(topic)
	var found []*primitive.MessageExt
	await(soon, "the message in "+topic, func() bool {
		found = f.readAll(topic, 0)
		return len(found) > 0
	})
	require(len(found) == 1 && found[0].MsgId == sent.MsgID &&
		found[0].GetProperty(primitive.PropertyOriginMessageId) == sent.OffsetMsgID, "sent %s, in %s: %v", sent, topic, found)
	return found[0]
}

func atOnceDead(f *fixture) string {
	topic, group, in := f.topic(1), f.group(), newInbox()
	f.failing(group, topic, -1, 1_000, func(int32) int { return -1 }, in)
	sent := f.send(newMessage(topic, "Tag", "k"))
	f.requireOnly("%DLQ%"+group, sent)
	time.Sleep(quiet)
	require(len(in.all()) == 1, "it came %d times, 1 wanted", len(in.all()))
	return "one try, then in the dead-letter topic"
}

// The Go client's pull consumer sends back what is acknowledged with "later".
func sendBack(f *fixture) string {
	topic, group := f.topic(1), f.group()
	sent := f.send(newMessage(topic, "Tag", "k"))
	c := f.pull(group, topic)
	await(soon, "the message", func() bool {
		request, err := c.Poll(context.Background(), time.Second)
		if err == nil {
			c.ACK(context.Background(), request, consumer.ConsumeRetryLater)
		}
		return err == nil
	})
	again := f.requireOnly("%RETRY%"+group, sent)
	require(again.ReconsumeTimes == 1, "it came back with reconsumeTimes %d", again.ReconsumeTimes)
	return "a pull consumer's message acknowledged as to be retried is in the retry topic"
}

func delayLevels(f *fixture) string {
	topic, in := f.topic(queues), newInbox()
	f.collect(f.group(), topic, "Tag", in)
	due := map[string]time.Time{}
	var keys []string
	for i := range 60 {
		key := fmt.Sprintf("k-%d", i)
		due[key] = time.Now().Add(levels[i%3])
		f.send(newMessage(topic, "Tag", key).WithDelayTimeLevel(i%3 + 1))
		keys = append(keys, key)
	}
	in.awaitKeys(keys, soon)
	time.Sleep(quiet)
	in.requireExactly(keys)
	var late []time.Duration
	for _, d := range in.all() {
		require(d.message.Topic == topic, "%s came as a message of %s", d.key, d.message.Topic)
		late = append(late, time.UnixMilli(d.message.StoreTimestamp).Sub(due[d.key]))
	}
	sort.Slice(late, func(i, j int) bool { return late[i] < late[j] })
	earliest, latest := late[0], late[len(late)-1]
	require(earliest > -earlyMax && latest < lateMax, "in the topic from %v to %v after they were due", earliest, latest)
	return fmt.Sprintf("60 messages, each once, in the topic %d to %d ms after they were due, median %d ms",
		earliest.Milliseconds(), latest.Milliseconds(), late[len(late)/2].Milliseconds())
}

// watch is what members of one group do with the queues of one topic, seen from inside their listeners.
type watch struct {
	in      *inbox
	mutex   sync.Mutex
	working map[int]string
	broken  string
}

func newWatch() *watch {
	return &watch{in: newInbox(), working: map[int]string{}}
}

// listener is that of one member. fails says for which messages it asks to suspend the queue.
func (w *watch) listener(member string, fails func(*primitive.MessageExt) bool) listener {
	return func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		queue := messages[0].Queue.QueueId
		w.begin(queue, member)
		defer w.end(queue)
		for _, message := range messages {
			w.in.add(message)
			if fails(message) {
				orderly, _ := primitive.GetOrderlyCtx(ctx)
				orderly.SuspendCurrentQueueTimeMillis = 200
				return consumer.SuspendCurrentQueueAMoment, nil
			}
			time.Sleep(time.Millisecond) // long enough that two at once would meet
		}
		return consumer.ConsumeSuccess, nil
	}
}

func (w *watch) begin(queue int, member string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if other, busy := w.working[queue]; busy {
		w.broken = fmt.Sprintf("queue %d given to %s while %s works on it", queue, member, other)
	}
	w.working[queue] = member
}

func (w *watch) end(queue int) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	delete(w.working, queue)
}

// requireOrder requires that each queue was worked on by one member at a time, its messages first seen in their order.
func (w *watch) requireOrder() {
	w.mutex.Lock()
	broken := w.broken
	w.mutex.Unlock()
	require(broken == "", "%s", broken)
	next := map[int]int64{}
	for _, d := range w.in.all() {
		queue, offset := d.message.Queue.QueueId, d.message.QueueOffset
		require(offset <= next[queue], "queue %d: offset %d came when %d was next", queue, offset, next[queue])
		next[queue] = max(next[queue], offset+1)
	}
}

func never(*primitive.MessageExt) bool { return false }

func (f *fixture) orderly(group, topic string, on listener) rocketmq.PushConsumer {
	return f.push(group, topic, byTags("*"), on, consumer.WithConsumerOrder(true))
}

// sendInTurn sends to each queue in turn, so that the order in a queue is that of the numbers in the keys.
func (f *fixture) sendInTurn(topic, prefix string, count int) []string {
	keys := make([]string, count)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s-%d", prefix, i)
		f.sendTo(newMessage(topic, "", keys[i]), i%queues)
	}
	return keys
}

func oneMember(f *fixture) string {
	topic, w := f.topic(queues), newWatch()
	f.orderly(f.group(), topic, w.listener("a", never))
	keys := f.sendInTurn(topic, "k", 400)
	w.in.awaitKeys(keys, soon)
	time.Sleep(quiet)
	w.in.requireExactly(keys)
	w.requireOrder()
	return "400 messages of 4 queues, each once, in order, one at a time"
}

func suspend(f *fixture) string {
	topic, w := f.topic(queues), newWatch()
	f.orderly(f.group(), topic, w.listener("a", func(m *primitive.MessageExt) bool {
		return m.QueueOffset%10 == 3 && m.ReconsumeTimes < 2
	}))
	keys := f.sendInTurn(topic, "k", 80)
	w.in.awaitKeys(keys, soon)
	time.Sleep(quiet)
	w.requireOrder()
	for _, key := range keys {
		tries, want := w.in.of(key), 1
		if tries[0].message.QueueOffset%10 == 3 {
			want = 3
		}
		require(len(tries) == want, "%s came %d times, %d wanted", key, len(tries), want)
	}
	return "8 messages tried three times each while their queues waited, order kept"
}

func orderDeadLetter(f *fixture) string {
	topic, group, w := f.topic(1), f.group(), newWatch()
	f.push(group, topic, byTags("*"), w.listener("a", func(m *primitive.MessageExt) bool { return m.QueueOffset == 1 && m.Topic == topic }),
		consumer.WithConsumerOrder(true), consumer.WithMaxReconsumeTimes(1))
	var sent []*primitive.SendResult
	for i := range 3 {
		sent = append(sent, f.sendTo(newMessage(topic, "", fmt.Sprintf("k-%d", i)), 0))
	}
	w.in.awaitKeys([]string{"k-0", "k-1", "k-2"}, soon)
	f.requireOnly("%DLQ%"+group, sent[1])
	return fmt.Sprintf("put aside after %d tries, the queue went on", len(w.in.of("k-1")))
}

func twoMembers(f *fixture) string {
	topic, group, w := f.topic(queues), f.group(), newWatch()
	f.orderly(group, topic, w.listener("a", never))
	keys := f.sendInTurn(topic, "alone", 200)
	var mutex sync.Mutex
	given := 0
	on := w.listener("b", never)
	other := f.orderly(group, topic, func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		mutex.Lock()
		given += len(messages)
		mutex.Unlock()
		return on(ctx, messages...)
	})
	keys = append(keys, f.sendInTurn(topic, "two", 200)...)
	round := 0
	await(handedOver, "the second member to be given messages", func() bool {
		time.Sleep(500 * time.Millisecond)
		keys = append(keys, f.sendInTurn(topic, fmt.Sprintf("round%d", round), 2*queues)...)
		round++
		mutex.Lock()
		defer mutex.Unlock()
		return given > 0
	})
	must(other.Shutdown(), "shutdown")
	keys = append(keys, f.sendInTurn(topic, "after", 80)...)
	w.in.awaitKeys(keys, soon)
	w.requireOrder()
	return fmt.Sprintf("%d messages, in order and never two members on one queue, %d given again", len(keys), w.in.again())
}
