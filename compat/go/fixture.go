package main

import (
	"context"
	"fmt"
	"os/exec"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

const (
	// how long anything that should come is waited for: a client that missed something looks again after 20 or 30 s
	soon = 45 * time.Second
	// under the client's rebalance period of 20 s: a change seen within it was notified
	notified = 10 * time.Second
	// how long what must not come is given to come
	quiet = 2 * time.Second
	// how many keys a failure names
	namedMax = 8
)

// what a case found to be otherwise than it should be
type failure string

func require(holds bool, format string, arguments ...any) {
	if !holds {
		panic(failure(fmt.Sprintf(format, arguments...)))
	}
}

func must(err error, what string) {
	require(err == nil, "%s: %v", what, err)
}

// What a case works with: names of its own, and clients that are shut down when it ends.
type fixture struct {
	*suite
	name   string
	groups int
	topics int

	mutex    sync.Mutex
	open     []func()
	producer rocketmq.Producer
}

func newFixture(s *suite, id string) *fixture {
	return &fixture{suite: s, name: strings.ReplaceAll(id, "/", "-") + "-" + s.stamp}
}

func (f *fixture) closeLater(shutdown func()) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.open = append(f.open, shutdown)
}

// close ends the clients, the newest first. Ending one that the case has ended already does nothing.
func (f *fixture) close() {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	for i := len(f.open) - 1; i >= 0; i-- {
		f.open[i]()
	}
	f.open = nil
}

// --- names and topics ---

func (f *fixture) resolver() primitive.NsResolver {
	return primitive.NewPassthroughResolver(f.nameServers)
}

// Clients of one name in a process share their connections; each here gets its own.
func (f *fixture) instance() string {
	return fmt.Sprintf("suite-%s-%d", f.stamp, f.instances.Add(1))
}

func (f *fixture) group() string {
	f.groups++
	return fmt.Sprintf("g-%s-%d", f.name, f.groups)
}

// topic makes a topic with this many queues, with the client's admin API, and waits until its route is known.
func (f *fixture) topic(queues int) string {
	f.topics++
	topic := fmt.Sprintf("t-%s-%d", f.name, f.topics)
	operator, err := admin.NewAdmin(admin.WithResolver(f.resolver()))
	must(err, "admin client")
	must(operator.CreateTopic(context.Background(), admin.WithTopicCreate(topic), admin.WithBrokerAddrCreate(f.leader),
		admin.WithReadQueueNums(queues), admin.WithWriteQueueNums(queues)), "create topic")
	await(soon, "a route of "+topic, func() bool {
		found, err := operator.FetchPublishMessageQueues(context.Background(), topic)
		return err == nil && len(found) == queues
	})
	return topic
}

func (f *fixture) queue(topic string, id int) *primitive.MessageQueue {
	return &primitive.MessageQueue{Topic: topic, BrokerName: f.brokerName, QueueId: id}
}

// --- sending ---

func (f *fixture) sender() rocketmq.Producer {
	if f.producer == nil {
		p, err := rocketmq.NewProducer(producer.WithNsResolver(f.resolver()), producer.WithGroupName("suite-"+f.name),
			producer.WithInstanceName(f.instance()), producer.WithQueueSelector(selector{f.brokerName}))
		must(err, "producer")
		must(p.Start(), "producer start")
		f.closeLater(func() { _ = p.Shutdown() })
		f.producer = p
	}
	return f.producer
}

// selector sends to the queue that a message's sharding key names, or round robin.
type selector struct{ brokerName string }

var turns sync.Map

func (s selector) Select(message *primitive.Message, queues []*primitive.MessageQueue, _ string) *primitive.MessageQueue {
	sort.Slice(queues, func(i, j int) bool { return queues[i].QueueId < queues[j].QueueId })
	if message.Queue != nil {
		for _, queue := range queues {
			if queue.QueueId == message.Queue.QueueId {
				return queue
			}
		}
		return nil
	}
	turn, _ := turns.LoadOrStore(message.Topic, new(int))
	next := turn.(*int)
	*next++
	return queues[*next%len(queues)]
}

func newMessage(topic, tag, key string) *primitive.Message {
	message := primitive.NewMessage(topic, []byte(key))
	if tag != "" {
		message.WithTag(tag)
	}
	return message.WithKeys([]string{key})
}

func (f *fixture) trySend(message *primitive.Message) (*primitive.SendResult, error) {
	result, err := f.sender().SendSync(context.Background(), message)
	if err == nil && result.Status != primitive.SendOK {
		err = fmt.Errorf("a send ended with status %d", result.Status)
	}
	return result, err
}

func (f *fixture) send(message *primitive.Message) *primitive.SendResult {
	result, err := f.trySend(message)
	must(err, "send")
	return result
}

func (f *fixture) sendTo(message *primitive.Message, queue int) *primitive.SendResult {
	message.Queue = f.queue(message.Topic, queue)
	return f.send(message)
}

// sendMany sends messages with the keys PREFIX-0 and on over all queues of a topic.
func (f *fixture) sendMany(topic, prefix string, count int) []string {
	keys := make([]string, count)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s-%d", prefix, i)
		f.send(newMessage(topic, "", keys[i]))
	}
	return keys
}

// --- consuming ---

type listener func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error)

// push starts a push consumer, from the first offset on unless an option says otherwise.
func (f *fixture) push(group, topic string, filter consumer.MessageSelector, on listener, options ...consumer.Option) rocketmq.PushConsumer {
	all := append([]consumer.Option{consumer.WithNsResolver(f.resolver()), consumer.WithGroupName(group),
		consumer.WithInstance(f.instance()), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset)}, options...)
	c, err := rocketmq.NewPushConsumer(all...)
	must(err, "push consumer")
	must(c.Subscribe(topic, filter, on), "subscribe")
	must(c.Start(), "consumer start")
	f.closeLater(func() { _ = c.Shutdown() })
	return c
}

// collect starts a push consumer that puts all it gets into the inbox.
func (f *fixture) collect(group, topic, tags string, in *inbox, options ...consumer.Option) rocketmq.PushConsumer {
	return f.push(group, topic, byTags(tags), in.listen, options...)
}

func byTags(tags string) consumer.MessageSelector {
	return consumer.MessageSelector{Type: consumer.TAG, Expression: tags}
}

// pull starts a pull consumer. Unless told, this client lets a pull consumer's messages be retried not once.
func (f *fixture) pull(group, topic string) rocketmq.PullConsumer {
	c, err := rocketmq.NewPullConsumer(consumer.WithNsResolver(f.resolver()), consumer.WithGroupName(group),
		consumer.WithInstance(f.instance()), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
		consumer.WithMaxReconsumeTimes(-1))
	must(err, "pull consumer")
	must(c.Subscribe(topic, byTags("*")), "subscribe")
	must(c.Start(), "pull consumer start")
	f.closeLater(func() { _ = c.Shutdown() })
	return c
}

// introduce lets the group have been here before, so that its retry topic is there: a client that does not find that
// topic at its start looks for it again after 30 s only.
func (f *fixture) introduce(group string) {
	topic, in := f.topic(1), newInbox()
	c := f.collect(group, topic, "*", in)
	in.awaitKeys(f.sendMany(topic, "introduction", 1), soon)
	f.awaitRoute("%RETRY%" + group)
	must(c.Shutdown(), "shutdown")
}

func (f *fixture) awaitRoute(topic string) {
	operator, err := admin.NewAdmin(admin.WithResolver(f.resolver()))
	must(err, "admin client")
	await(soon, "a route of "+topic, func() bool {
		found, err := operator.FetchPublishMessageQueues(context.Background(), topic)
		return err == nil && len(found) > 0
	})
}

// readAll reads all of a queue up to its end. The client holds a pull at the end, so it is given up after a moment.
func (f *fixture) readAll(topic string, queue int) []*primitive.MessageExt {
	reader := f.pull(f.group(), topic)
	var all []*primitive.MessageExt
	offset := int64(0)
	for {
		type pulled struct {
			result *primitive.PullResult
			err    error
		}
		answer := make(chan pulled, 1)
		go func() {
			result, err := reader.PullFrom(context.Background(), f.queue(topic, queue), offset, 32)
			answer <- pulled{result, err}
		}()
		select {
		case p := <-answer:
			must(p.err, "pull")
			if p.result.Status != primitive.PullFound {
				return all
			}
			all = append(all, p.result.GetMessageExts()...)
			offset = p.result.NextBeginOffset
		case <-time.After(quiet):
			return all
		}
	}
}

// --- waiting ---

// await polls a condition that nothing announces. It returns how long that took.
func await(most time.Duration, what string, condition func() bool) time.Duration {
	start := time.Now()
	for !condition() {
		require(time.Since(start) < most, "waited %v in vain for %s", most, what)
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}

// leaderKill is one killing of the leader, shared by all cases that want it: it happens when each is ready for it.
type leaderKill struct {
	command []string
	waiting sync.WaitGroup
	once    sync.Once
	err     error
}

func newLeaderKill(command string, cases int) *leaderKill {
	kill := &leaderKill{}
	if command != "-" {
		kill.command = strings.Fields(command)
	}
	kill.waiting.Add(cases)
	return kill
}

// await returns when the leader has been killed.
func (k *leaderKill) await() {
	require(len(k.command) > 0, "no command to kill the leader with")
	k.waiting.Done()
	ready := make(chan struct{})
	go func() {
		k.waiting.Wait()
		close(ready)
	}()
	select {
	case <-ready:
	case <-time.After(time.Minute):
		require(false, "another case did not come to the killing of the leader")
	}
	k.once.Do(func() {
		output, err := exec.Command(k.command[0], k.command[1:]...).CombinedOutput()
		fmt.Println("     " + strings.TrimSpace(string(output)))
		k.err = err
	})
	must(k.err, "kill the leader")
}
