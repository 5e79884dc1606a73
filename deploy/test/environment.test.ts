import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { generated, template, type Properties } from "../lib/generated";
import { environment } from "./look";

/** The variables that a binary reads, as its command line says. */
function known(crate: string): Set<string> {
  const source = readFileSync(join(__dirname, "..", "..", crate, "src", "cli.rs"), "utf8");
  return new Set([...source.matchAll(/\benv = "([A-Z0-9_]+)"/g)].map(([, name]) => name as string));
}

const INIT = known("init");

/** Those of a container that nobody reads. */
function unknown(names: string[], crate?: string): string[] {
  const all = crate === undefined ? INIT : new Set([...INIT, ...known(crate)]);
  return names.filter((name) => !all.has(name));
}

test("the binaries' command lines are read", () => {
  assert.ok(INIT.size > 20 && INIT.has("INIT_DRAIN") && known("front").has("FRONT_BACKEND") && known("back").has("BACK_LISTEN"));
  assert.deepEqual(unknown(["INIT_DRAIN", "INIT_DRAIN_TIME", "FRONT_BACKEND"], "back"), ["INIT_DRAIN_TIME", "FRONT_BACKEND"]);
});

for (const context of [{}, { profile: "article" }, { profile: "article", ttl: "30", drain: "30" }] as Record<string, string>[]) {
  test(`every variable of the tasks is one that its programs read: ${JSON.stringify(context)}`, () => {
    const made = template(context);
    assert.deepEqual(unknown(Object.keys(environment(made, "Back")), "back"), []);
    assert.deepEqual(unknown(Object.keys(environment(made, "Front")), "front"), []);
  });
}

test("so is every one of the task definition for other services", () => {
  const definition = JSON.parse(generated()["task-definition.json"] ?? "");
  assert.deepEqual(unknown(definition.containerDefinitions[0].environment.map((it: Properties) => it["name"])), []);
});
