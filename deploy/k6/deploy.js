// Steady load on the service's public address while it is deployed: the article's scenario (DevelopersIO, 2023-03-06), with
// an open loop. README.md has the variables and what they mean for a distributed run.
//
//   k6 run -e HOST=lameduck-123.ap-northeast-1.elb.amazonaws.com deploy.js

import { check } from 'k6';
import http from 'k6/http';
import { Counter } from 'k6/metrics';

const NUMBER = /^(\d+(\.\d+)?|\.\d+)$/;
const DURATION = /^(\d+(\.\d+)?(ms|s|m|h))+$/;

// What, which value, and what to do. k6 prints it and exits with 107 before anything is sent.
function refuse(name, value, expected) {
  const what = value === undefined ? `${name} is not given` : `${name}=${value} is no use`;
  throw new Error(`${what}: expected ${expected}. Give it with -e ${name}=...`);
}

function text(name, otherwise, pattern, expected) {
  const given = __ENV[name];
  // An empty variable is one that was not set: so say shells and task definitions.
  const value = given === undefined || given === '' ? otherwise : given;
  if (value === undefined || !pattern.test(value)) {
    refuse(name, given === '' ? undefined : given, expected);
  }
  return value;
}

function number(name, otherwise, least, most, expected) {
  const value = Number(text(name, String(otherwise), NUMBER, expected));
  if (value < least || value > most) {
    refuse(name, __ENV[name], expected);
  }
  return value;
}

function seconds(duration) {
  const units = { ms: 0.001, s: 1, m: 60, h: 3600 };
  const parts = duration.match(/\d+(\.\d+)?(ms|s|m|h)/g);
  return parts.reduce((sum, part) => sum + parseFloat(part) * units[part.replace(/[\d.]/g, '')], 0);
}

function length(name, otherwise, expected) {
  const value = text(name, otherwise, DURATION, expected);
  if (seconds(value) <= 0) {
    refuse(name, __ENV[name], expected);
  }
  return value;
}

const HOST = text('HOST', undefined, /^[^\s/?#@]+$/, 'the load balancer\'s name, with a :port if it is not 80, without http://');
const SCHEME = text('SCHEME', 'http', /^https?$/, 'http or https');
// Not PATH: that is the shell's, which k6 run would take.
const TARGET_PATH = text('TARGET_PATH', '/', /^\/\S*$/, 'a path that begins with /');
const RATE = number('RATE', 10, 1, 100000, 'whole requests per second, from 1 on');
const LASTS = length('DURATION', '5m', 'a duration such as 5m or 1m30s');
const TIMEOUT = length('TIMEOUT', '15s', 'a duration such as 15s');
const MAX_FAILED = number('MAX_FAILED', 0, 0, 1, 'the share of requests that may fail, from 0 to 1');
const NEW_CONNECTIONS = text('NEW_CONNECTIONS', 'false', /^(true|false)$/, 'true or false');

if (!Number.isInteger(RATE)) {
  refuse('RATE', __ENV.RATE, 'whole requests per second, from 1 on');
}

const VUS = Math.ceil(RATE * (seconds(TIMEOUT) + 1));
const URL = `${SCHEME}://${HOST}${TARGET_PATH}`;

export const options = {
  scenarios: {
    deploy: {
      // Open loop: a request every 1/RATE s, whatever became of those before. The article's `-u 10 --rps 10` is a closed one:
      // ten callers that wait for their answers send less just when a deploy makes answers slow, and hide what it costs.
      executor: 'constant-arrival-rate',
      rate: RATE,
      timeUnit: '1s',
      duration: LASTS,
      // As many as are in flight if every request takes all of its time, and there from the start: an iteration for which k6
      // has to make another one is dropped.
      preAllocatedVUs: VUS,
      maxVUs: VUS,
      gracefulStop: `${Math.ceil(seconds(TIMEOUT)) + 1}s`,
      tags: { target: HOST },
    },
  },
  thresholds: {
    // The objective: nobody outside notices the deploy. Exit code 99 if it is missed. Rates and not counts, so that they mean
    // the same on each of several instances.
    checks: [`rate>=${(1 - MAX_FAILED).toFixed(6)}`],
    http_req_failed: [`rate<=${MAX_FAILED.toFixed(6)}`],
    // An iteration that could not be started was not sent: then the rate was not what it says, and nothing is proven.
    dropped_iterations: ['count==0'],
  },
  noConnectionReuse: NEW_CONNECTIONS === 'true',
  // k6 keeps an answer for 5m by default, longer than a load balancer's name keeps its addresses, and far longer than a
  // task's name does.
  dns: { ttl: '5s', select: 'random', policy: 'preferIPv4' },
  discardResponseBodies: true,
  userAgent: 'lameduck-k6',
  summaryTrendStats: ['avg', 'min', 'med', 'p(95)', 'p(99)', 'max'],
};

// Whose answers: the distribution as the caller sees it, in any output that keeps tags (--out json=..., csv, Prometheus).
const answers = new Counter('answers_by_task');

export default function () {
  const response = http.get(URL, { timeout: TIMEOUT, tags: { name: TARGET_PATH } });
  check(response, {
    is_status_200: (r) => r.status === 200,
  });
  answers.add(1, { task_id: response.headers['X-Task-Id'] || 'none', status: String(response.status) });
}
