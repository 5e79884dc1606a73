/**
 * What has to fit between SIGTERM and SIGKILL. Pure: whole seconds in, whole seconds or a reason out; nothing of AWS or the
 * CDK in here.
 *
 * ```
 * SIGTERM                                              SIGTERM goes on                 SIGKILL
 *    |------------------- drain ------------------------------|----------- grace ----------|
 *    |-- TTL (caches may name the task) --|-- DNS margin --|  |-- in flight --|-- exit --|
 *    |------------------------------- stop timeout ----------------------------------------|
 * ```
 */

/** The most that Fargate waits between SIGTERM and SIGKILL, in seconds (ECS API, `ContainerDefinition.stopTimeout`). */
export const FARGATE_LIMIT = 120;

/** What ECS waits if a container definition has no `stopTimeout`, in seconds (same source). */
export const ECS_DEFAULT = 30;

/** What the stop has to make room for. All in whole seconds. */
export interface StopTimes {
  /** The TTL of the record that names the task. 0 for a task that no record names. */
  readonly ttl: number;
  /** What passes from the stop until no server hands the record out any more. ECS does not wait for it before SIGTERM. */
  readonly dnsMargin: number;
  /** How long the longest request takes that may arrive in the last moment of the drain. */
  readonly inFlight: number;
  /** What the process needs after its last request to end, and its log to be written. */
  readonly exitMargin: number;
  /** The lame duck's length, if it is not TTL + DNS margin. Less than that is refused. */
  readonly drain?: number;
  /** The platform's, if it is not just what is needed. Less than that is refused. */
  readonly stopTimeout?: number;
  /** The most that the platform allows, {@link FARGATE_LIMIT} unless told otherwise. */
  readonly limit?: number;
}

/** A division of the stop timeout. `drain + grace = stopTimeout`, unless the division was refused. In whole seconds. */
export interface StopBudget {
  /** How long the task goes on serving after SIGTERM: `INIT_DRAIN`. */
  readonly drain: number;
  /** What is left for requests in flight and the exit: `INIT_GRACE`. */
  readonly grace: number;
  /** What the platform waits: `stopTimeout` and `INIT_STOP_TIMEOUT`. */
  readonly stopTimeout: number;
}

/** The times do not fit, or are no times. The message has the arithmetic and what to change. */
export class StopBudgetError extends Error {
  override readonly name = "StopBudgetError";
}

/**
 * Divides the stop timeout, and says what is wrong with the division. For those who want it all the same (to repeat what
 * goes wrong); everybody else calls {@link stopBudget}.
 *
 * @throws StopBudgetError if a time is no whole number of seconds from 0 on.
 */
export function divide(times: StopTimes): { budget: StopBudget; violations: string[] } {
  for (const [name, value] of Object.entries(times)) {
    if (value !== undefined && !(Number.isInteger(value) && value >= 0)) {
      throw new StopBudgetError(`${name} is ${value}: give a whole number of seconds, 0 or more.`);
    }
  }
  const { ttl, dnsMargin, inFlight, exitMargin, limit = FARGATE_LIMIT } = times;
  const named = ttl + dnsMargin;
  const drain = times.drain ?? named;
  const rest = inFlight + exitMargin;
  const needed = drain + rest;
  const stopTimeout = times.stopTimeout ?? needed;

  const ofDrain = times.drain === undefined ? `TTL ${ttl}s + DNS margin ${dnsMargin}s` : "as given";
  const sum = `drain ${drain}s (${ofDrain}) + in flight ${inFlight}s + exit margin ${exitMargin}s = ${needed}s`;
  // What would fit, where anything would: the knob that is most likely the wrong one comes first.
  const within = (room: number) => {
    if (times.drain !== undefined) return room >= rest ? `lower the drain to at most ${room - rest}s` : undefined;
    return room >= rest + dnsMargin ? `lower the TTL to at most ${room - rest - dnsMargin}s` : undefined;
  };
  const advice = (...ways: (string | undefined)[]) => {
    const text = ways.filter((way) => way !== undefined).join(", or ");
    return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
  };
  const shorter = "let requests take less time (in flight)";

  const violations: string[] = [];
  if (drain < named) {
    violations.push(
      `A drain of ${drain}s is shorter than caches may name the task, TTL ${ttl}s + DNS margin ${dnsMargin}s = ${named}s: ` +
        `callers with an old answer are refused for up to ${named - drain}s. ` +
        advice(`raise the drain to ${named}s`, drain > dnsMargin ? `lower the TTL to ${drain - dnsMargin}s` : undefined),
    );
  }
  if (needed > limit) {
    violations.push(
      `The platform kills ${limit}s after SIGTERM at the latest, and the stop needs ${sum}: the task would be killed ` +
        `${needed - limit}s too early. ${advice(within(limit), shorter)}`,
    );
  } else if (needed > stopTimeout) {
    violations.push(
      `The platform kills ${stopTimeout}s after SIGTERM (the stop timeout), and the stop needs ${sum}: the task would be ` +
        `killed ${needed - stopTimeout}s too early. ` +
        advice(`raise the stop timeout to ${needed}s`, within(stopTimeout), shorter),
    );
  }
  if (stopTimeout > limit && times.stopTimeout !== undefined) {
    violations.push(`A stop timeout of ${stopTimeout}s is more than the platform allows: give at most ${limit}s.`);
  }
  return { budget: { drain, grace: Math.max(0, stopTimeout - drain), stopTimeout }, violations };
}

/**
 * Divides the stop timeout so that no cached answer outlives the task and no request is cut off.
 *
 * @throws StopBudgetError if that cannot be.
 */
export function stopBudget(times: StopTimes): StopBudget {
  const { budget, violations } = divide(times);
  if (violations.length > 0) throw new StopBudgetError(violations.join("\n"));
  return budget;
}
