// The cases by the id of their point. Each has topics and groups of its own, and says what was seen.
'use strict';

const { QUIET_MS, SOON_MS } = require('./fixture');
const { Inbox, awaitThat, require: require_, sleep } = require('./inbox');

const QUEUES = 4;
// how early a delay may end by the clocks' rounding, and how late on a busy machine, by the broker's time of storing
const EARLY_MS_MAX = 1_100;
const LATE_MS_MAX = 6_000;
const LEVEL_MS = [1_000, 5_000, 10_000];
const WOKEN_MS_MAX = 500; // a held pull that arrival does not wake is looked at again after 5 s
const DEAD_MS_MAX = 10_000; // until a dead letter must be there
const MOVED_MS = 75_000; // until the client has the new leader's address: it asks for routes every 30 s
const PERSISTED_MS = 6_000; // how often the client commits, and a little more

const median = numbers => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const numbered = (prefix, count) => Array.from({ length: count }, (_, i) => `${prefix}-${i}`);

// --- sending ---

async function asynchronous(f) {
  const topic = await f.topic(QUEUES);
  const inbox = new Inbox();
  await f.collect(f.group(), topic, inbox);
  const keys = numbered('k', 200);
  const sent = await Promise.all(keys.map(key => f.send(topic, key)));
  await inbox.awaitKeys(keys, SOON_MS);
  inbox.requireExactly(keys);
  const ids = new Set(inbox.deliveries.map(d => d.msgId));
  require_(sent.every(result => ids.has(result.msgId)), 'the ids sent and received differ');
  return '200 at once, each answered and received once';
}

async function byKey(f) {
  const topic = await f.topic(QUEUES);
  const inbox = new Inbox();
  await f.collect(f.group(), topic, inbox);
  // for keys that belong to queue 0 the client takes the queues in turn; these two do not
  for (let i = 0; i < 50; i++) {
    for (const shardingKey of ['one', 'four']) await f.send(topic, `${shardingKey}-${i}`, { shardingKey });
  }
  for (const shardingKey of ['one', 'four']) {
    await inbox.awaitKeys(numbered(shardingKey, 50), SOON_MS);
    const own = inbox.deliveries.filter(d => d.properties.__SHARDING_KEY === shardingKey);
    const queues = new Set(own.map(d => d.queueId));
    require_(queues.size === 1, `key ${shardingKey} went to the queues ${[...queues]}`);
    require_(own.map(d => d.key).join() === numbered(shardingKey, 50).join(), `key ${shardingKey} came out of order`);
  }
  return '2 keys of 50 messages, each key in one queue and in order';
}

async function content(f) {
  const topic = await f.topic(QUEUES);
  const inbox = new Inbox();
  await f.collect(f.group(), topic, inbox);
  const body = 'what the client compresses, ü 中 \u{1F680}; '.repeat(1_000);
  const sent = await f.send(topic, 'k', { body, properties: { number: 'ü 中' } });
  await inbox.awaitKeys([body], SOON_MS);
  const [d] = inbox.deliveries;
  require_(d.msgId === sent.msgId && d.tags === 'Tag' && d.keys === 'k' && d.properties.number === 'ü 中',
    `sent ${sent.msgId}, received ${d.msgId}, ${d.tags}, ${d.keys}, ${d.properties.number}`);
  return `a body of ${Buffer.byteLength(body)} bytes with tag, keys and property`;
}

// --- groups ---

// Sends one message to each queue and looks who is given which: this client says nothing of its queues.
class Rounds {
  constructor(f, topic, queues, inbox) {
    Object.assign(this, { f, topic, queues, inbox, count: 0, keys: [] });
  }

  async round() {
    const keys = await this.f.sendMany(this.topic, `round${++this.count}`, this.queues);
    this.keys.push(...keys);
    return keys;
  }

  async sizes() {
    const keys = await this.round();
    await this.inbox.awaitKeys(keys, SOON_MS);
    const shares = new Map();
    for (const { key, member, queueId } of this.inbox.deliveries) {
      if (keys.includes(key)) shares.set(member, (shares.get(member) || new Set()).add(queueId));
    }
    return [...shares.values()].map(queues => queues.size).sort();
  }

  awaitShares(what, ...sizes) {
    return awaitThat(SOON_MS, what, async () => {
      await sleep(200);
      return (await this.sizes()).join() === sizes.join();
    });
  }

  // Whether messages go elsewhere: what this member is not given in a moment, another has.
  async lacks() {
    const keys = await this.round();
    await sleep(500);
    return this.inbox.missing(keys).length === this.queues / 2;
  }
}

async function joinLeave(f) {
  const topic = await f.topic(8);
  const [group, inbox] = [f.group(), new Inbox()];
  const rounds = new Rounds(f, topic, 8, inbox);
  await f.collect(group, topic, inbox, { member: 'a' });
  await rounds.awaitShares('the only member to be given all queues', 8);
  const other = await f.collect(group, topic, inbox, { member: 'b' });
  const join = await rounds.awaitShares('two members to share the queues', 4, 4);
  await f.end(other);
  const leave = await rounds.awaitShares('the one that stays to be given all queues', 8);
  await inbox.awaitKeys(rounds.keys, SOON_MS);
  return `shared within ${join} ms, taken over within ${leave} ms`;
}

async function crash(f) {
  const topic = await f.topic(8);
  const [group, inbox] = [f.group(), new Inbox()];
  const rounds = new Rounds(f, topic, 8, inbox);
  await f.collect(group, topic, inbox, { member: 'a' });
  await rounds.awaitShares('the only member to be given all queues', 8);
  const process_ = await f.member(group, topic);
  try {
    await awaitThat(SOON_MS, 'the other member to have queues', () => rounds.lacks());
  } finally {
    process_.kill('SIGKILL');
  }
  const took = await rounds.awaitShares('the one that lives to be given all queues', 8);
  return `taken over within ${took} ms`;
}

// --- consuming ---

async function push(f) {
  const topic = await f.topic(8);
  const inbox = new Inbox();
  await f.collect(f.group(), topic, inbox);
  const keys = numbered('k', 400);
  const sent = new Map();
  for (const key of keys) sent.set(key, await f.send(topic, key, { properties: { number: key } }));
  await inbox.awaitKeys(keys, SOON_MS);
  await sleep(QUIET_MS);
  inbox.requireExactly(keys);
  for (const d of inbox.deliveries) {
    const s = sent.get(d.key);
    require_(d.msgId === s.msgId && d.queueOffset === Number(s.queueOffset) && d.queueId === Number(s.messageQueue.queueId) &&
      d.topic === topic && d.tags === 'Tag' && d.keys === d.key && d.properties.number === d.key && d.reconsumeTimes === 0,
    `sent ${JSON.stringify(s)}, received ${JSON.stringify(d)}`);
  }
  return '400 messages of 8 queues, each once and as it was sent';
}

async function woken(f) {
  const topic = await f.topic(1);
  const inbox = new Inbox();
  await f.collect(f.group(), topic, inbox);
  await inbox.awaitKeys(await f.sendMany(topic, 'first', 1), SOON_MS);
  const took = [];
  for (const key of numbered('k', 20)) {
    await sleep(100);
    const start = Date.now();
    await f.send(topic, key);
    await inbox.awaitKeys([key], SOON_MS);
    took.push(inbox.deliveries.find(d => d.key === key).at - start);
  }
  require_(median(took) < WOKEN_MS_MAX, `median from send to listener ${median(took)} ms`);
  return `median from send to listener ${median(took)} ms`;
}

async function tags(f) {
  const topic = await f.topic(QUEUES);
  const [two, all] = [new Inbox(), new Inbox()];
  await f.collect(f.group(), topic, two, { filter: 'TagA || TagC' });
  await f.collect(f.group(), topic, all);
  const keys = numbered('k', 90);
  for (const [i, key] of keys.entries()) await f.send(topic, key, { tag: ['TagA', 'TagB', 'TagC'][i % 3] });
  const wanted = keys.filter((_, i) => i % 3 !== 1);
  await all.awaitKeys(keys, SOON_MS);
  await two.awaitKeys(wanted, SOON_MS);
  await sleep(QUIET_MS);
  two.requireExactly(wanted);
  all.requireExactly(keys);
  return 'two tags of three, and all';
}

async function sqlPush(f) {
  const topic = await f.topic(QUEUES);
  const inbox = new Inbox();
  const subString = "a BETWEEN 5 AND 20 AND region IN ('x', 'z') AND even IS NULL";
  await f.collect(f.group(), topic, inbox, { filter: { expressionType: 'SQL92', subString } });
  const wanted = [];
  for (let i = 0; i < 30; i++) {
    const properties = { a: String(i), region: ['x', 'y', 'z'][i % 3] };
    if (i % 2 === 0) properties.even = 'yes';
    await f.send(topic, `k-${i}`, { properties });
    if (i >= 5 && i <= 20 && i % 3 !== 1 && i % 2 === 1) wanted.push(`k-${i}`);
  }
  await inbox.awaitKeys(wanted, SOON_MS);
  await sleep(QUIET_MS);
  inbox.requireExactly(wanted);
  return `${wanted.length} of 30 messages passed`;
}

// As long as a topic's first message is there, a new group begins with it, whatever it asked for.
const from = consumeFromWhere => async f => {
  const topic = await f.topic(QUEUES);
  const inbox = new Inbox();
  const keys = await f.sendMany(topic, 'before', 40);
  await f.collect(f.group(), topic, inbox, { consumeFromWhere });
  await inbox.awaitKeys(keys, SOON_MS);
  keys.push(...await f.sendMany(topic, 'after', 40));
  await inbox.awaitKeys(keys, SOON_MS);
  inbox.requireExactly(keys);
  return 'all from the first message on';
};

// A member ends, and the next is given what came meanwhile, and nothing again. `join` starts a member, which needs
// `settleMs` until it is given what comes.
async function takenOver(f, topic, join, before, meanwhileCount, settleMs = 0) {
  const [first, second] = [new Inbox(), new Inbox()];
  const consumer = await join(first);
  await sleep(settleMs);
  await first.awaitKeys(await f.sendMany(topic, 'k', before), SOON_MS);
  await sleep(PERSISTED_MS);
  await f.end(consumer);
  const meanwhile = await f.sendMany(topic, 'meanwhile', meanwhileCount);
  await join(second);
  await second.awaitKeys(meanwhile, SOON_MS);
  await sleep(QUIET_MS);
  second.requireExactly(meanwhile);
}

async function restart(f) {
  const [topic, group] = [await f.topic(QUEUES), f.group()];
  await takenOver(f, topic, inbox => f.collect(group, topic, inbox), 100, 40);
  return 'what came meanwhile, and nothing again';
}

// --- retries and delays ---

// Requires that a message came with reconsume counts 0, 1, ..., as itself, each time after its delay.
function requireRetries(inbox, topic, sent, delays) {
  const tries = inbox.deliveries;
  require_(tries.length === delays.length + 1, `it came ${tries.length} times, ${delays.length + 1} wanted`);
  const seen = [];
  tries.forEach((d, i) => {
    require_(d.reconsumeTimes === i, `try ${i} came with reconsumeTimes ${d.reconsumeTimes}`);
    require_(d.topic === topic, `try ${i} came as a message of ${d.topic}`);
    // this client shows the id of the stored copy, and that of the first as its origin
    require_(i === 0 || d.properties.ORIGIN_MESSAGE_ID, `try ${i} names no origin`);
    if (i === 0) return require_(d.msgId === sent.msgId, `sent as ${sent.msgId}, received as ${d.msgId}`);
    const delay = d.storeMs - tries[i - 1].at;
    require_(delay > delays[i - 1] - EARLY_MS_MAX && delay < delays[i - 1] + LATE_MS_MAX,
      `try ${i} was due after ${delay} ms, ${delays[i - 1]} wanted`);
    seen.push(delay);
  });
  return seen.join(', ');
}

async function growing(f) {
  const topic = await f.topic(1);
  const [group, inbox] = [f.group(), new Inbox()];
  await f.introduce(group);
  await f.collect(group, topic, inbox, { fails: d => d.reconsumeTimes < 2 });
  const sent = await f.send(topic, 'k');
  await awaitThat(40_000 + SOON_MS, 'three tries', () => inbox.deliveries.length >= 3);
  return `again after ${requireRetries(inbox, topic, sent, [10_000, 30_000])} ms, the same message with reconsumeTimes 1, 2`;
}

async function deadLetter(f) {
  const topic = await f.topic(1);
  const [group, inbox, dead] = [f.group(), new Inbox(), new Inbox()];
  await f.introduce(group);
  await f.collect(group, topic, inbox, { fails: () => true, maxReconsumeTimes: 1 });
  const sent = await f.send(topic, 'k');
  await awaitThat(10_000 + SOON_MS, 'two tries', () => inbox.deliveries.length >= 2);
  requireRetries(inbox, topic, sent, [10_000]);
  await sleep(QUIET_MS); // what is not there is looked for again after 30 s only
  await f.collect(f.group(), `%DLQ%${group}`, dead);
  await dead.awaitKeys(['k'], DEAD_MS_MAX);
  dead.requireExactly(['k']);
  require_(inbox.deliveries.length === 2, `it came ${inbox.deliveries.length} times, 2 wanted`);
  return 'two tries with one retry allowed, then in the dead-letter topic';
}

async function levels(f) {
  const topic = await f.topic(QUEUES);
  const inbox = new Inbox();
  await f.collect(f.group(), topic, inbox);
  const due = new Map();
  for (const [i, key] of numbered('k', 60).entries()) {
    due.set(key, Date.now() + LEVEL_MS[i % 3]);
    await f.send(topic, key, { delayTimeLevel: i % 3 + 1 });
  }
  await inbox.awaitKeys([...due.keys()], SOON_MS);
  await sleep(QUIET_MS);
  inbox.requireExactly([...due.keys()]);
  const late = inbox.deliveries.map(d => d.storeMs - due.get(d.key));
  const [earliest, latest] = [Math.min(...late), Math.max(...late)];
  require_(earliest > -EARLY_MS_MAX && latest < LATE_MS_MAX, `in the topic from ${earliest} to ${latest} ms after they were due`);
  return `60 messages, each once, in the topic ${earliest} to ${latest} ms after they were due, median ${median(late)} ms`;
}

// --- broadcast ---

async function broadcast(f) {
  const topic = await f.topic(QUEUES);
  const [group, inboxes] = [f.group(), [new Inbox(), new Inbox()]];
  // a member of a new group begins with what comes after it has looked where the queues end
  for (const inbox of inboxes) await f.collect(group, topic, inbox, { isBroadcast: true });
  await sleep(QUIET_MS);
  const keys = await f.sendMany(topic, 'k', 100);
  for (const inbox of inboxes) await inbox.awaitKeys(keys, SOON_MS);
  await sleep(QUIET_MS);
  for (const inbox of inboxes) inbox.requireExactly(keys);
  return '100 messages at each of two members';
}

async function broadcastRestart(f) {
  const [topic, group] = [await f.topic(QUEUES), f.group()];
  const options = { isBroadcast: true, persistent: true, instanceName: f.instance() };
  await takenOver(f, topic, inbox => f.collect(group, topic, inbox, options), 60, 20, QUIET_MS);
  return 'the same member goes on by its local offsets';
}

// --- the leader is killed ---

async function failover(f) {
  const topic = await f.topic(QUEUES);
  const [group, inbox, restarted] = [f.group(), new Inbox(), new Inbox()];
  const consumer = await f.collect(group, topic, inbox);
  const acknowledged = await f.sendMany(topic, 'before', 100);
  await f.killLeader();
  const deadline = Date.now() + MOVED_MS;
  for (let i = 0; acknowledged.length < 200; i++) {
    require_(Date.now() < deadline, `after ${MOVED_MS} ms only ${acknowledged.length - 100} sends were acknowledged`);
    try {
      await f.send(topic, `after-${i}`);
      acknowledged.push(`after-${i}`);
    } catch (error) {
      await sleep(200);
    }
  }
  await inbox.awaitKeys(acknowledged, MOVED_MS);
  await sleep(PERSISTED_MS);
  await f.end(consumer);
  await f.collect(group, topic, restarted);
  await sleep(2 * QUIET_MS);
  require_(restarted.deliveries.length === 0, `a member that came after was given ${restarted.deliveries.length} messages again`);
  return `${acknowledged.length} acknowledged, all received, ${inbox.again()} given again, offsets kept`;
}

const cases = {
  'send/async': asynchronous,
  'send/by-key': byKey,
  'send/content': content,
  'groups/join-leave': joinLeave,
  'groups/crash': crash,
  'pull/push': push,
  'pull/woken': woken,
  'filter/tags': tags,
  'filter/sql-push': sqlPush,
  'offsets/first': from('CONSUME_FROM_FIRST_OFFSET'),
  'offsets/last': from('CONSUME_FROM_LAST_OFFSET'),
  'offsets/restart': restart,
  'retry/growing': growing,
  'retry/dead-letter': deadLetter,
  'delay/levels': levels,
  'broadcast/all': broadcast,
  'broadcast/restart': broadcastRestart,
  'failover/concurrent': failover,
};

module.exports = { cases };
