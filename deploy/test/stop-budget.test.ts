import assert from "node:assert/strict";
import { test } from "node:test";
import { divide, stopBudget, type StopTimes } from "../lib/stop-budget";

const TIMES: StopTimes = { ttl: 30, dnsMargin: 5, inFlight: 20, exitMargin: 5 };

/** The message for these times. */
function refusal(times: Partial<StopTimes>): string {
  let message = "";
  assert.throws(() => stopBudget({ ...TIMES, ...times }), (error: Error) => {
    message = error.message;
    return error.name === "StopBudgetError";
  });
  return message;
}

test("what is needed is what there is: the drain outlives the record, the grace the requests", () => {
  assert.deepEqual(stopBudget(TIMES), { drain: 35, grace: 25, stopTimeout: 60 });
});

test("a task that no record names needs no more than the margin", () => {
  assert.deepEqual(stopBudget({ ...TIMES, ttl: 0 }), { drain: 5, grace: 25, stopTimeout: 30 });
});

test("what a longer stop timeout leaves is the application's", () => {
  assert.deepEqual(stopBudget({ ...TIMES, stopTimeout: 90 }), { drain: 35, grace: 55, stopTimeout: 90 });
});

test("a longer drain is taken", () => {
  assert.deepEqual(stopBudget({ ...TIMES, drain: 50 }), { drain: 50, grace: 25, stopTimeout: 75 });
});

test("all of the 120 s that Fargate allows can be used, and not one more", () => {
  assert.deepEqual(stopBudget({ ...TIMES, ttl: 90 }), { drain: 95, grace: 25, stopTimeout: 120 });
  assert.equal(
    refusal({ ttl: 91 }),
    "The platform kills 120s after SIGTERM at the latest, and the stop needs drain 96s (TTL 91s + DNS margin 5s) + in flight " +
      "20s + exit margin 5s = 121s: the task would be killed 1s too early. Lower the TTL to at most 90s, or let requests take " +
      "less time (in flight).",
  );
});

test("the limit is the platform's: on EC2 an agent may be told to wait longer", () => {
  assert.deepEqual(stopBudget({ ...TIMES, ttl: 300, limit: 600 }), { drain: 305, grace: 25, stopTimeout: 330 });
});

test("a stop timeout that is too short is refused with the sum and both knobs", () => {
  assert.equal(
    refusal({ stopTimeout: 30 }),
    "The platform kills 30s after SIGTERM (the stop timeout), and the stop needs drain 35s (TTL 30s + DNS margin 5s) + in " +
      "flight 20s + exit margin 5s = 60s: the task would be killed 30s too early. Raise the stop timeout to 60s, or lower the " +
      "TTL to at most 0s, or let requests take less time (in flight).",
  );
});

test("what could not help is not proposed", () => {
  assert.doesNotMatch(refusal({ stopTimeout: 20 }), /TTL to at most/);
  assert.doesNotMatch(refusal({ inFlight: 200 }), /TTL to at most/);
  assert.match(refusal({ drain: 110 }), /Lower the drain to at most 95s/);
});

test("a drain that is shorter than the record lives is refused, and says for how long callers would be", () => {
  assert.equal(
    refusal({ drain: 30 }),
    "A drain of 30s is shorter than caches may name the task, TTL 30s + DNS margin 5s = 35s: callers with an old answer are " +
      "refused for up to 5s. Raise the drain to 35s, or lower the TTL to 25s.",
  );
});

test("a stop timeout beyond the platform's is refused though everything would fit in it", () => {
  assert.equal(refusal({ stopTimeout: 121 }), "A stop timeout of 121s is more than the platform allows: give at most 120s.");
});

test("what are no times are refused by name", () => {
  for (const [name, value] of [["ttl", -1], ["dnsMargin", 1.5], ["inFlight", Number.NaN], ["drain", Infinity], ["stopTimeout", -0.1]] as const) {
    assert.equal(refusal({ [name]: value }), `${name} is ${value}: give a whole number of seconds, 0 or more.`);
  }
});

test("the article's own settings are divided all the same, for those who ask what is wrong with them", () => {
  const slept = divide({ ...TIMES, inFlight: 0, exitMargin: 0, dnsMargin: 0, drain: 30, stopTimeout: 30 });
  assert.deepEqual(slept, { budget: { drain: 30, grace: 0, stopTimeout: 30 }, violations: [] });
  const real = divide({ ...TIMES, drain: 30, stopTimeout: 30 });
  assert.equal(real.violations.length, 2);
});

test("the parts are the whole, whatever the times, and no violation means that they fit", () => {
  for (let ttl = 0; ttl <= 120; ttl += 7) {
    for (let inFlight = 0; inFlight <= 60; inFlight += 11) {
      for (const stopTimeout of [undefined, 1, 30, 60, 119, 120, 121]) {
        const { budget, violations } = divide({ ...TIMES, ttl, inFlight, ...(stopTimeout === undefined ? {} : { stopTimeout }) });
        const fits = budget.drain === ttl + 5 && budget.grace >= inFlight + 5 && budget.stopTimeout <= 120;
        assert.equal(violations.length === 0, fits, JSON.stringify({ ttl, inFlight, stopTimeout, budget, violations }));
        if (fits) assert.equal(budget.drain + budget.grace, budget.stopTimeout);
      }
    }
  }
});
