// What a consumer and a producer can ask for, asked for by ali-ons, the Node.js client, unmodified.
//
// Arguments: name server addresses (separated by ";"), address of the leader, broker name, a stamp that makes names
// unique, the file for the results, the command that kills the group's leader (or "-"), then the ids of the cases to run;
// scripts/consumer-compat takes them from compat/consumer-points.tsv. A result is a line of four fields with tabs between:
// id, ok or failed, milliseconds, detail. Exit code 0 when every case was ok, 1 when one was not, 2 when the suite could
// not run.
'use strict';

const fs = require('fs');
const { cases } = require('./cases');
const { Failure } = require('./inbox');
const { Fixture, member } = require('./fixture');

const CASES_AT_ONCE = 10; // they wait much more than they work
const CASE_MS_MAX = 150_000;

class Suite {
  constructor([nameServers, leader, , stamp, results, kill]) {
    this.target = { nameServers, leader, stamp, kill: kill === '-' ? null : kill, instances: 0 };
    this.results = fs.openSync(results, 'w');
    this.failed = false;
  }

  async run(ids) {
    const left = [...ids];
    const place = async () => {
      while (left.length > 0) await this.runOne(left.shift());
    };
    await Promise.all(Array.from({ length: CASES_AT_ONCE }, place));
  }

  async runOne(id) {
    const start = Date.now();
    const fixture = new Fixture(this.target, id);
    const late = new Promise(resolve => {
      setTimeout(() => resolve([false, `stopped after ${CASE_MS_MAX} ms`]), CASE_MS_MAX).unref();
    });
    const [ok, detail] = await Promise.race([attempt(id, fixture), late]);
    this.report(id, ok, detail, Date.now() - start);
    await fixture.close();
  }

  report(id, ok, detail, elapsed) {
    this.failed ||= !ok;
    const line = detail.split(/\s+/).join(' ');
    fs.writeSync(this.results, `${id}\t${ok ? 'ok' : 'failed'}\t${elapsed}\t${line}\n`);
    console.log(`${ok ? 'ok  ' : 'FAIL'} ${id}: ${line} (${elapsed} ms)`);
  }
}

async function attempt(id, fixture) {
  try {
    if (!cases[id]) throw new Failure('the suite has no such case');
    return [true, await cases[id](fixture)];
  } catch (error) {
    if (!(error instanceof Failure)) console.error(error);
    return [false, error.message];
  }
}

async function main(args) {
  if (args[0] === 'member' && args.length === 4) return member(...args.slice(1));
  if (args.length < 7) {
    console.error('usage: suite.js NAMESRV LEADER BROKER_NAME STAMP RESULTS KILL_LEADER_COMMAND|- CASE...');
    return 2;
  }
  const suite = new Suite(args);
  await suite.run(args.slice(6));
  return suite.failed ? 1 : 0;
}

main(process.argv.slice(2)).then(
  code => process.exit(code),
  error => {
    console.error(error);
    process.exit(2);
  },
);
