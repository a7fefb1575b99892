// What one or more members of a group were given, in the order they were given it.
'use strict';

const NAMED_MAX = 8; // how many keys a failure names
const POLL_MS = 10;

// What a case found to be otherwise than it should be.
class Failure extends Error {}

function require_(holds, text) {
  if (!holds) throw new Failure(text);
}

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

// Polls a condition. Returns how many milliseconds that took.
async function awaitThat(ms, what, condition) {
  const start = Date.now();
  while (!(await condition())) {
    require_(Date.now() - start < ms, `waited ${ms} ms in vain for ${what}`);
    await sleep(POLL_MS);
  }
  return Date.now() - start;
}

function named(keys) {
  const some = [...keys].sort();
  return some.slice(0, NAMED_MAX).join(', ') + (some.length > NAMED_MAX ? ', ...' : '');
}

class Inbox {
  constructor() {
    this.deliveries = [];
  }

  add(message, member) {
    const { topic, msgId, queueId, queueOffset, reconsumeTimes, tags, keys, properties, storeTimestamp } = message;
    const delivery = {
      key: message.body.toString(), topic, msgId, queueId: Number(queueId), queueOffset: Number(queueOffset), reconsumeTimes,
      tags, keys, properties: { ...properties }, storeMs: Number(storeTimestamp), at: Date.now(), member,
    };
    this.deliveries.push(delivery);
    return delivery;
  }

  times() {
    const times = new Map();
    for (const { key } of this.deliveries) times.set(key, (times.get(key) || 0) + 1);
    return times;
  }

  // How many deliveries were not the first of their message.
  again() {
    return this.deliveries.length - this.times().size;
  }

  missing(wanted) {
    const times = this.times();
    return wanted.filter(key => !times.has(key));
  }

  // Waits until each of these keys has arrived at least once.
  async awaitKeys(wanted, ms) {
    const deadline = Date.now() + ms;
    while (this.missing(wanted).length > 0 && Date.now() < deadline) await sleep(POLL_MS);
    const missing = this.missing(wanted);
    require_(missing.length === 0,
      `${missing.length} of ${wanted.length} messages did not arrive within ${ms} ms: ${named(missing)}`);
  }

  // Requires that what arrived is these keys, each once.
  requireExactly(wanted) {
    const times = this.times();
    const want = new Set(wanted);
    const foreign = [...times.keys()].filter(key => !want.has(key));
    require_(foreign.length === 0, `${foreign.length} messages that should not arrive did: ${named(foreign)}`);
    const repeated = [...times].filter(([, n]) => n > 1).map(([key, n]) => `${key} x${n}`);
    require_(repeated.length === 0, `${repeated.length} messages arrived more than once: ${named(repeated)}`);
    require_(times.size === want.size, `${times.size} messages of ${want.size} arrived`);
  }
}

module.exports = { Failure, Inbox, awaitThat, require: require_, sleep };
