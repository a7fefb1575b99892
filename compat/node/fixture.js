// What a case works with: names of its own, and clients that are shut down when it ends.
'use strict';

const { execFile, spawn } = require('child_process');
const { promisify } = require('util');
const readline = require('readline');
const { Consumer, Message, Producer } = require('ali-ons');
const { Failure, Inbox, require: require_, sleep } = require('./inbox');

// How long anything that should come is waited for: a client that missed something looks again after 30 s.
const SOON_MS = 45_000;
// How long what must not come is given to come.
const QUIET_MS = 2_000;
// Until the name servers that are not asked to wait for it know a new topic.
const ROUTE_MS = 300;
const ADMIN_MS = 3_000;
const MEMBER_STARTED = 'member started';

// The client wants something to ask for name servers with, and does not use it when they are given.
const connection = nameServers => ({ httpclient: {}, nameSrv: nameServers.split(';') });

class Fixture {
  constructor(target, id) {
    this.target = target;
    this.name = `${id.replace('/', '-')}-${target.stamp}`;
    this.topics = 0;
    this.groups = 0;
    this.open = [];
  }

  // Ends the clients, the newest first.
  async close() {
    while (this.open.length > 0) await this.open.pop().close();
  }

  // --- names and topics ---

  group() {
    return `g-${this.name}-${++this.groups}`;
  }

  // Clients of one name in a process share their connections; each here gets its own.
  instance() {
    return `suite-${this.target.stamp}-${++this.target.instances}`;
  }

  // Makes a topic: this client gives up a send when the name servers do not know the topic.
  async topic(queues) {
    const topic = `t-${this.name}-${++this.topics}`;
    const producer = await this.sender();
    await producer._mqClient.createTopic(this.target.leader, 'TBW102', {
      topicName: topic, readQueueNums: queues, writeQueueNums: queues, perm: 6, topicFilterType: 'SINGLE_TAG', topicSysFlag: 0,
      order: false,
    }, ADMIN_MS);
    await sleep(ROUTE_MS);
    return topic;
  }

  // --- sending ---

  async sender() {
    if (!this.producer) {
      this.producer = new Producer({
        ...connection(this.target.nameServers), producerGroup: `p-${this.name}`, instanceName: this.instance(),
      });
      this.producer.on('error', () => {}); // also said by the send that fails
      this.open.push(this.producer);
      await this.producer.ready();
    }
    return this.producer;
  }

  async send(topic, key, { body = key, tag = 'Tag', properties = {}, ...fields } = {}) {
    const message = new Message(topic, tag, body);
    message.keys = [key];
    Object.assign(message, fields);
    Object.assign(message.properties, properties);
    const result = await (await this.sender()).send(message);
    require_(result.sendStatus === 'SEND_OK', `a send ended with ${result.sendStatus}`);
    return result;
  }

  // Sends messages with the keys PREFIX-0 and on; the client takes the queues in turn.
  async sendMany(topic, prefix, count) {
    const keys = Array.from({ length: count }, (_, i) => `${prefix}-${i}`);
    for (const key of keys) await this.send(topic, key);
    return keys;
  }

  // --- consuming ---

  // Starts a push consumer that puts all it gets into the inbox, and fails what it is told to.
  async collect(group, topic, inbox, { filter = '*', member = '', fails = () => false, ...options } = {}) {
    const consumer = new Consumer({
      ...connection(this.target.nameServers), consumerGroup: group, instanceName: this.instance(), ...options,
    });
    consumer.on('error', error => console.error(this.name, error.message)); // also what the listener throws
    consumer.subscribe(topic, filter, async message => {
      if (fails(inbox.add(message, member))) throw new Error('to be given again');
    });
    this.open.push(consumer);
    await consumer.ready();
    return consumer;
  }

  async end(consumer) {
    this.open.splice(this.open.indexOf(consumer), 1);
    await consumer.close();
  }

  // Lets the group have been here before, so that its retry topic is there: a client that does not find that topic at its
  // start looks for it again after 30 s only.
  async introduce(group) {
    const topic = await this.topic(1);
    const inbox = new Inbox();
    const consumer = await this.collect(group, topic, inbox);
    await inbox.awaitKeys(await this.sendMany(topic, 'introduction', 1), SOON_MS);
    await this.end(consumer);
  }

  // Starts a member in a process of its own. The caller kills it.
  async member(group, topic) {
    const process_ = spawn(process.execPath, [process.argv[1], 'member', this.target.nameServers, group, topic],
      { stdio: ['pipe', 'pipe', 'inherit'] });
    for await (const line of readline.createInterface({ input: process_.stdout })) {
      if (line === MEMBER_STARTED) return process_;
    }
    throw new Failure("the member's process ended while starting");
  }

  async killLeader() {
    require_(this.target.kill !== null, 'no command to kill the leader with');
    const [command, ...args] = this.target.kill.split(' ');
    const { stdout } = await promisify(execFile)(command, args);
    console.log(`     ${stdout.trim()}`);
  }
}

// A group member in a process of its own, for the case that kills it. It runs until its input ends.
async function member(nameServers, group, topic) {
  const consumer = new Consumer({ ...connection(nameServers), consumerGroup: group });
  consumer.subscribe(topic, '*', async () => {});
  await consumer.ready();
  console.log(MEMBER_STARTED);
  for await (const _ of process.stdin);
  return 0;
}

module.exports = { Fixture, QUIET_MS, SOON_MS, member };
