import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { settings } from "../lib/settings";

test("nothing said is the profile recommended", () => {
  assert.deepEqual(settings({}), {
    profile: "recommended",
    ttl: 30,
    drain: undefined,
    inFlight: 20,
    network: "nat",
    ecr: undefined,
    certificate: undefined,
    faults: false,
  });
});

test("the article's are its first run: the CDK's TTL of 60 s and no drain", () => {
  const { ttl, drain, network, faults } = settings({ profile: "article" });
  assert.deepEqual({ ttl, drain, network, faults }, { ttl: 60, drain: 0, network: "public", faults: true });
});

test("times are seconds, with or without the letter", () => {
  const { ttl, drain, inFlight } = settings({ ttl: "45s", drain: "60", "in-flight": 10 });
  assert.deepEqual({ ttl, drain, inFlight }, { ttl: 45, drain: 60, inFlight: 10 });
});

test("the CDK's own context is none of ours", () => {
  assert.equal(settings({ "aws:cdk:enable-path-metadata": true, "@aws-cdk/core:x": true, "cli/y": 1 }).ttl, 30);
});

test("what is no setting, or no value of it, is refused with what there is", () => {
  for (const [context, message] of [
    [{ tll: "15" }, /no setting tll: there are profile, ttl, drain/],
    [{ profile: "artcle" }, /Setting profile is "artcle": give recommended or article/],
    [{ ttl: "1m" }, /Setting ttl is "1m": give whole seconds, such as 30/],
    [{ ttl: "-1" }, /whole seconds/],
    [{ drain: "" }, /Setting drain is ""/],
    [{ network: "private" }, /give nat or public or endpoints/],
    [{ network: "endpoints" }, /no way to a registry but ECR.*-c ecr=PREFIX/],
    [{ ecr: "Lameduck/" }, /a prefix of repositories/],
    [{ certificate: "mine" }, /ARN of a certificate/],
    [{ faults: "yes" }, /give true or false/],
  ] as const) {
    assert.throws(() => settings(context), message);
  }
});

test("the app says what is wrong in a line, without the stack of calls, and fails", () => {
  const app = join(__dirname, "..", "bin", "app.ts");
  const env = { ...process.env, CDK_CONTEXT_JSON: JSON.stringify({ ttl: "115" }) };
  const { status, stderr } = spawnSync(process.execPath, ["--import", "tsx", app], { env, encoding: "utf8", timeout: 60_000 });
  assert.equal(status, 1);
  assert.match(stderr, /^Lameduck\/Back: The platform kills 120s .* Lower the TTL to at most 90s, .*\n$/);
});
