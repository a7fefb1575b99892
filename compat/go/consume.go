package main

// Groups, pulls, filters, offsets, broadcast and traces.

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

const (
	memberStarted = "member started"
	traceTopic    = "RMQ_SYS_TRACE_TOPIC"
	wokenWithin   = 500 * time.Millisecond // a held pull that arrival does not wake is looked at again after 5 s
)

func init() {
	cases["groups/join-leave"] = joinLeave
	cases["groups/crash"] = crash
	cases["pull/push"] = push
	cases["pull/woken"] = woken
	cases["pull/statuses"] = statuses
	cases["pull/unknown"] = unknown
	cases["pull/limits"] = limits
	cases["pull/listener-batches"] = listenerBatches
	cases["pull/lite-subscribe"] = pollAndAck
	cases["filter/tags"] = tags
	cases["filter/sql-push"] = sqlPush
	cases["offsets/first"] = func(f *fixture) string { return from(f, consumer.ConsumeFromFirstOffset) }
	cases["offsets/last"] = func(f *fixture) string { return from(f, consumer.ConsumeFromLastOffset) }
	cases["offsets/timestamp"] = func(f *fixture) string { return from(f, consumer.ConsumeFromTimestamp) }
	cases["offsets/restart"] = restart
	cases["broadcast/all"] = broadcast
	cases["broadcast/restart"] = broadcastRestart
	cases["trace/consumer"] = trace
}

// share is the client's default strategy, which remembers how many queues of one topic it gave to this member.
type share struct {
	topic  string
	mutex  sync.Mutex
	queues map[int]bool
}

func (s *share) allocate(group, self string, all []*primitive.MessageQueue, members []string) []*primitive.MessageQueue {
	mine := consumer.AllocateByAveragely(group, self, all, members)
	if len(all) > 0 && all[0].Topic == s.topic {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		s.queues = map[int]bool{}
		for _, queue := range mine {
			s.queues[queue.QueueId] = true
		}
	}
	return mine
}

func (s *share) ids() map[int]bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.queues
}

func joinLeave(f *fixture) string {
	topic, group, in := f.topic(8), f.group(), newInbox()
	first, second := &share{topic: topic}, &share{topic: topic}
	f.collect(group, topic, "*", in, consumer.WithStrategy(first.allocate))
	await(soon, "the only member to have all queues", func() bool { return len(first.ids()) == 8 })
	keys := f.sendMany(topic, "alone", 40)

	other := f.collect(group, topic, "*", in, consumer.WithStrategy(second.allocate))
	join := await(notified, "two members to share the queues", func() bool {
		union := map[int]bool{}
		for _, ids := range []map[int]bool{first.ids(), second.ids()} {
			for id := range ids {
				union[id] = true
			}
		}
		return len(union) == 8 && len(first.ids()) == 4 && len(second.ids()) == 4
	})
	keys = append(keys, f.sendMany(topic, "two", 40)...)
	in.awaitKeys(keys, soon)

	must(other.Shutdown(), "shutdown")
	leave := await(notified, "the one that stays to have all queues", func() bool { return len(first.ids()) == 8 })
	keys = append(keys, f.sendMany(topic, "after", 40)...)
	in.awaitKeys(keys, soon)
	return fmt.Sprintf("shared within %d ms, taken over within %d ms", join.Milliseconds(), leave.Milliseconds())
}

// member is a group member in a process of its own, for the case that kills it. It runs until its input ends.
func member(nameServers, group, topic string) {
	c, err := rocketmq.NewPushConsumer(consumer.WithNsResolver(primitive.NewPassthroughResolver(strings.Split(nameServers, ";"))),
		consumer.WithGroupName(group), consumer.WithInstance("member"))
	if err == nil {
		err = c.Subscribe(topic, byTags("*"), newInbox().listen)
	}
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(memberStarted)
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
}

func crash(f *fixture) string {
	topic, group := f.topic(8), f.group()
	mine := &share{topic: topic}
	f.collect(group, topic, "*", newInbox(), consumer.WithStrategy(mine.allocate))
	await(soon, "the only member to have all queues", func() bool { return len(mine.ids()) == 8 })

	process := exec.Command(os.Args[0], "member", strings.Join(f.nameServers, ";"), group, topic)
	process.Env = append(os.Environ(), "ROCKETMQ_GO_LOG_LEVEL=error")
	_, err := process.StdinPipe() // its input stays open until it is killed
	must(err, "member's input")
	output, err := process.StdoutPipe()
	must(err, "member's output")
	must(process.Start(), "member")
	f.closeLater(func() { _ = process.Process.Kill() })
	lines := bufio.NewScanner(output)
	for lines.Scan() && lines.Text() != memberStarted {
	}
	require(lines.Text() == memberStarted, "the member's process ended while starting")
	await(soon, "two members to share the queues", func() bool { return len(mine.ids()) == 4 })
	must(process.Process.Kill(), "kill")
	took := await(notified, "the one that lives to have all queues", func() bool { return len(mine.ids()) == 8 })
	_ = process.Wait()
	return fmt.Sprintf("taken over within %d ms", took.Milliseconds())
}

func push(f *fixture) string {
	topic, in := f.topic(8), newInbox()
	f.collect(f.group(), topic, "*", in)
	sent := map[string]*primitive.SendResult{}
	var keys []string
	for i := range 400 {
		key := fmt.Sprintf("k-%d", i)
		message := newMessage(topic, "Tag", key)
		message.WithProperty("number", key)
		sent[key] = f.send(message)
		keys = append(keys, key)
	}
	in.awaitKeys(keys, soon)
	time.Sleep(quiet)
	in.requireExactly(keys)
	for _, d := range in.all() {
		s, m := sent[d.key], d.message
		require(m.Queue.QueueId == s.MessageQueue.QueueId && m.QueueOffset == s.QueueOffset && m.MsgId == s.MsgID &&
			m.Topic == topic && m.GetTags() == "Tag" && m.GetKeys() == d.key && m.GetProperty("number") == d.key &&
			d.reconsumeTimes == 0, "sent %s, received %s", s, m)
	}
	return "400 messages of 8 queues, each once and as it was sent"
}

func woken(f *fixture) string {
	topic, in := f.topic(1), newInbox()
	f.collect(f.group(), topic, "*", in)
	in.awaitKeys(f.sendMany(topic, "first", 1), soon)
	var latencies []time.Duration
	for i := range 20 {
		time.Sleep(100 * time.Millisecond)
		start := time.Now()
		key := fmt.Sprintf("k-%d", i)
		f.send(newMessage(topic, "", key))
		in.awaitKeys([]string{key}, soon)
		latencies = append(latencies, in.of(key)[0].at.Sub(start))
	}
	sort.Slice(latencies, func(i, j int) bool { return latencies[i] < latencies[j] })
	median := latencies[len(latencies)/2]
	require(median < wokenWithin, "median from send to listener %v", median)
	return fmt.Sprintf("median from send to listener %d ms", median.Milliseconds())
}

func statuses(f *fixture) string {
	topic := f.topic(1)
	for i := range 10 {
		f.sendTo(newMessage(topic, "Tag", fmt.Sprintf("k-%d", i)), 0)
	}
	reader := f.pull(f.group(), topic)
	for _, want := range []struct {
		offset int64
		number int
		status primitive.PullStatus
		next   int64
		found  int
	}{
		{0, 32, primitive.PullFound, 10, 10},
		{4, 3, primitive.PullFound, 7, 3},
		{11, 32, primitive.PullOffsetIllegal, 10, 0},
		{1_000_000, 32, primitive.PullOffsetIllegal, 10, 0},
	} {
		got, err := reader.PullFrom(context.Background(), f.queue(topic, 0), want.offset, want.number)
		must(err, "pull")
		require(got.Status == want.status && got.NextBeginOffset == want.next && len(got.GetMessageExts()) == want.found,
			"at %d: %+v wanted, got %s", want.offset, want, got)
	}
	return "found, and illegal offsets, each with where to go on"
}

func unknown(f *fixture) string {
	topic := f.topic(2)
	reader := f.pull(f.group(), topic)
	said := []string{}
	for _, id := range []int{2, -1} {
		got, err := reader.PullFrom(context.Background(), f.queue(topic, id), 0, 32)
		require(err != nil, "queue %d, which is not there, gives %v", id, got)
		said = append(said, err.Error())
	}
	return "refused: " + strings.Join(said, "; ")
}

func limits(f *fixture) string {
	const asked, count, bytesMax = 100, 200, 256 * 1024
	topic := f.topic(1)
	for i := range count {
		message := newMessage(topic, "", fmt.Sprintf("k-%d", i))
		message.Body = []byte(strings.Repeat("x", 3_500)) // below what the client compresses
		f.sendTo(message, 0)
	}
	reader := f.pull(f.group(), topic)
	most := 0
	for offset := int64(0); offset < count; {
		got, err := reader.PullFrom(context.Background(), f.queue(topic, 0), offset, asked)
		must(err, "pull")
		found, bytes := got.GetMessageExts(), int32(0)
		for _, message := range found {
			bytes += message.StoreSize
		}
		require(got.Status == primitive.PullFound && len(found) <= asked && bytes <= bytesMax &&
			got.NextBeginOffset == offset+int64(len(found)), "%d messages with %d bytes in one answer: %s", len(found), bytes, got)
		most = max(most, len(found))
		offset = got.NextBeginOffset
	}
	return fmt.Sprintf("asked for %d, at most %d came in one answer", asked, most)
}

func listenerBatches(f *fixture) string {
	topic, in := f.topic(1), newInbox()
	keys := f.sendMany(topic, "k", 100)
	var mutex sync.Mutex
	var sizes []int
	f.push(f.group(), topic, byTags("*"), func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		mutex.Lock()
		sizes = append(sizes, len(messages))
		mutex.Unlock()
		return in.listen(ctx, messages...)
	}, consumer.WithPullBatchSize(16), consumer.WithConsumeMessageBatchMaxSize(10))
	in.awaitKeys(keys, soon)
	in.requireExactly(keys)
	mutex.Lock()
	defer mutex.Unlock()
	most := 0
	for _, size := range sizes {
		most = max(most, size)
	}
	require(most == 10, "the largest batch had %d messages, 10 wanted", most)
	return fmt.Sprintf("100 messages in %d batches of at most 10", len(sizes))
}

func pollAll(c rocketmq.PullConsumer, in *inbox, wanted []string) {
	deadline := time.Now().Add(soon)
	for len(in.missing(wanted)) > 0 && time.Now().Before(deadline) {
		request, err := c.Poll(context.Background(), 500*time.Millisecond)
		if consumer.IsNoNewMsgError(err) {
			continue
		}
		must(err, "poll")
		for _, message := range request.GetMsgList() {
			in.add(message)
		}
		c.ACK(context.Background(), request, consumer.ConsumeSuccess)
	}
	in.awaitKeys(wanted, 0)
}

func pollAndAck(f *fixture) string {
	topic, group := f.topic(4), f.group()
	keys := f.sendMany(topic, "k", 100)
	in := newInbox()
	c := f.pull(group, topic)
	pollAll(c, in, keys)
	in.requireExactly(keys)
	must(c.PersistOffset(context.Background(), topic), "persist")
	must(c.Shutdown(), "shutdown")

	more := f.sendMany(topic, "more", 40)
	again := newInbox()
	pollAll(f.pull(group, topic), again, more)
	again.requireExactly(more)
	return "100 polled and acknowledged, another member goes on behind them"
}

func tags(f *fixture) string {
	topic, two, all := f.topic(4), newInbox(), newInbox()
	f.collect(f.group(), topic, "TagA || TagC", two)
	f.collect(f.group(), topic, "*", all)
	var wanted, sent []string
	for i := range 90 {
		tag := []string{"TagA", "TagB", "TagC"}[i%3]
		key := fmt.Sprintf("k-%d", i)
		f.send(newMessage(topic, tag, key))
		sent = append(sent, key)
		if tag != "TagB" {
			wanted = append(wanted, key)
		}
	}
	all.awaitKeys(sent, soon)
	two.awaitKeys(wanted, soon)
	time.Sleep(quiet)
	two.requireExactly(wanted)
	all.requireExactly(sent)
	return "two tags of three, and all"
}

func sqlPush(f *fixture) string {
	topic, in := f.topic(4), newInbox()
	filter := consumer.MessageSelector{Type: consumer.SQL92, Expression: "a BETWEEN 5 AND 20 AND region IN ('x', 'z') AND even IS NULL"}
	f.push(f.group(), topic, filter, in.listen)
	var wanted []string
	for i := range 30 {
		key := fmt.Sprintf("k-%d", i)
		message := newMessage(topic, "", key)
		message.WithProperty("a", fmt.Sprint(i))
		message.WithProperty("region", []string{"x", "y", "z"}[i%3])
		if i%2 == 0 {
			message.WithProperty("even", "yes")
		}
		f.send(message)
		if i >= 5 && i <= 20 && i%3 != 1 && i%2 == 1 {
			wanted = append(wanted, key)
		}
	}
	in.awaitKeys(wanted, soon)
	time.Sleep(quiet)
	in.requireExactly(wanted)
	return fmt.Sprintf("%d of 30 messages passed", len(wanted))
}

// As long as a topic's first message is there, a new group begins with it, whatever it asked for.
func from(f *fixture, where consumer.ConsumeFromWhere) string {
	topic, in := f.topic(4), newInbox()
	keys := f.sendMany(topic, "before", 40)
	hence := time.Now().Add(time.Hour).Format("20060102150405")
	f.collect(f.group(), topic, "*", in, consumer.WithConsumeFromWhere(where), consumer.WithConsumeTimestamp(hence))
	in.awaitKeys(keys, soon)
	keys = append(keys, f.sendMany(topic, "after", 40)...)
	in.awaitKeys(keys, soon)
	in.requireExactly(keys)
	return "all from the first message on"
}

func restart(f *fixture) string {
	topic, group, first := f.topic(4), f.group(), newInbox()
	c := f.collect(group, topic, "*", first)
	first.awaitKeys(f.sendMany(topic, "k", 100), soon)
	must(c.Shutdown(), "shutdown")
	meanwhile := f.sendMany(topic, "meanwhile", 40)
	second := newInbox()
	f.collect(group, topic, "*", second)
	second.awaitKeys(meanwhile, soon)
	time.Sleep(quiet)
	second.requireExactly(meanwhile)
	return "what came meanwhile, and nothing again"
}

func broadcast(f *fixture) string {
	topic, group := f.topic(4), f.group()
	first, second := newInbox(), newInbox()
	f.collect(group, topic, "*", first, consumer.WithConsumerModel(consumer.BroadCasting))
	f.collect(group, topic, "*", second, consumer.WithConsumerModel(consumer.BroadCasting))
	keys := f.sendMany(topic, "k", 100)
	first.awaitKeys(keys, soon)
	second.awaitKeys(keys, soon)
	time.Sleep(quiet)
	first.requireExactly(keys)
	second.requireExactly(keys)
	return "100 messages at each of two members"
}

func broadcastRestart(f *fixture) string {
	topic, group, first, second := f.topic(4), f.group(), newInbox(), newInbox()
	options := []consumer.Option{consumer.WithConsumerModel(consumer.BroadCasting), consumer.WithInstance(f.instance())}
	c := f.collect(group, topic, "*", first, options...)
	first.awaitKeys(f.sendMany(topic, "k", 60), soon)
	must(c.Shutdown(), "shutdown")
	meanwhile := f.sendMany(topic, "meanwhile", 20)
	f.collect(group, topic, "*", second, options...)
	second.awaitKeys(meanwhile, soon)
	time.Sleep(quiet)
	second.requireExactly(meanwhile)
	return "the same member goes on by its local offsets"
}

func trace(f *fixture) string {
	topic, group, in := f.topic(1), f.group(), newInbox()
	f.collect(group, topic, "*", in, consumer.WithTrace(&primitive.TraceConfig{
		TraceTopic: traceTopic, GroupName: f.group(), Access: primitive.Local, Resolver: f.resolver(), NamesrvAddrs: f.nameServers}))
	sent := f.send(newMessage(topic, "Tag", "k"))
	in.awaitKeys([]string{"k"}, soon)
	f.awaitRoute(traceTopic)
	await(soon, "what the consumer did before and after its listener in "+traceTopic, func() bool {
		text := ""
		for _, message := range f.readAll(traceTopic, 0) {
			if body := string(message.Body); strings.Contains(body, sent.MsgID) && strings.Contains(body, group) {
				text += body
			}
		}
		return strings.Contains(text, "SubBefore") && strings.Contains(text, "SubAfter")
	})
	return "the traces before and after the listener are in the trace topic"
}
