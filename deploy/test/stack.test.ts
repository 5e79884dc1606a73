import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { template } from "../lib/generated";
import { queries } from "../lib/queries";
import { CHOICES } from "./choices";
import { container, environment, resource, resources, rules, seconds, service } from "./look";

const recommended = template();

for (const { name, holds, undo } of CHOICES) {
  describe(name, () => {
    test("holds", () => holds(recommended));
    for (const [index, change] of undo.entries()) {
      test(`is seen to be undone, in way ${index + 1} of ${undo.length}`, () => {
        const changed = structuredClone(recommended);
        change(changed);
        assert.notDeepEqual(changed, recommended, "nothing was undone");
        assert.throws(() => holds(changed), `undone by ${change}, and not noticed`);
      });
    }
  });
}

test("queries: none without a folder, and none that says nothing, or not of whose log", () => {
  assert.deepEqual(queries("/nowhere"), []);
  const folder = mkdtempSync(join(tmpdir(), "queries-"));
  try {
    const write = (text: string) => writeFileSync(join(folder, "a.query"), text);
    write("# What it tells.\n# Log group: back's.\nstats count()\n| limit 1\n");
    assert.deepEqual(queries(folder).map(({ name, commands, title, logs }) => [name, commands, title, logs]), [
      ["a", "stats count()\n| limit 1", "What it tells", ["back"]],
    ]);
    write("# Log group: back's or front's. Both.\nstats count()\n");
    assert.deepEqual(queries(folder)[0]?.logs, ["front", "back"]);
    write("# Log group: back's.\n\n");
    assert.throws(() => queries(folder), /a\.query has no command/);
    write("stats count()\n");
    assert.throws(() => queries(folder), /a\.query has no line "# Log group: front's\."/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("another TTL moves the drain and the stop timeout with it", () => {
  const longer = template({ ttl: "60" });
  assert.equal(resource(longer, "AWS::ServiceDiscovery::Service")[1]["DnsConfig"].DnsRecords[0].TTL, 60);
  assert.equal(seconds(environment(longer, "Back")["INIT_DRAIN"]), 65);
  assert.equal(container(longer, "Back")["StopTimeout"], 90);
});

test("a TTL that leaves no time for requests is refused with the sum", () => {
  assert.throws(() => template({ ttl: "91" }), /TTL 91s \+ DNS margin 5s.*in flight 20s.*121s.*Lower the TTL to at most 90s/);
  assert.equal(container(template({ ttl: "90" }), "Back")["StopTimeout"], 120);
});

test("a drain that is shorter than the TTL is refused, and a longer one taken", () => {
  assert.throws(() => template({ drain: "30" }), /A drain of 30s is shorter.*30s \+ DNS margin 5s = 35s/);
  assert.equal(container(template({ drain: "60" }), "Back")["StopTimeout"], 85);
});

test("public: tasks have addresses of their own, and nothing is paid for NAT", () => {
  const open = template({ network: "public" });
  for (const name of ["Back", "Front"] as const) {
    assert.equal(service(open, name)["NetworkConfiguration"].AwsvpcConfiguration.AssignPublicIp, "ENABLED");
  }
  assert.deepEqual(resources(open, "AWS::EC2::NatGateway"), {});
  assert.deepEqual(rules(open, "Ingress", "Back"), ["tcp Front 1235"]);
});

test("ecr: a task may pull from its own repository", () => {
  const own = template({ ecr: "lameduck" });
  const policies = Object.values(resources(own, "AWS::IAM::Policy"));
  for (const name of ["back", "front"]) {
    const policy = policies.find((it) => JSON.stringify(it).includes(`repository/lameduck/${name}`));
    const actions = policy?.["PolicyDocument"].Statement.flatMap((it: { Action: string | string[] }) => it.Action);
    assert.deepEqual(actions?.sort(), [
      "ecr:BatchCheckLayerAvailability",
      "ecr:BatchGetImage",
      "ecr:GetAuthorizationToken",
      "ecr:GetDownloadUrlForLayer",
      "logs:CreateLogStream",
      "logs:PutLogEvents",
    ]);
  }
  assert.deepEqual(Object.keys(own.Parameters).sort(), ["BackTag", "CallerCidr", "FrontTag", "Revision"]);
  assert.equal(Object.keys(resources(own, "AWS::EC2::VPCEndpoint")).length, 1);
});

test("endpoints: no way to the internet, and one to ECR, S3 and CloudWatch Logs before a task starts", () => {
  const closed = template({ network: "endpoints", ecr: "lameduck" });
  const endpoints = resources(closed, "AWS::EC2::VPCEndpoint");
  assert.equal(Object.keys(endpoints).length, 4);
  assert.deepEqual(resources(closed, "AWS::EC2::NatGateway"), {});
  assert.deepEqual(Object.keys(resources(closed, "AWS::EC2::Route")).filter((id) => id.includes("tasks")), []);
  const waits = closed.Resources[resource(closed, "AWS::ECS::Service", "Back")[0]]?.DependsOn ?? [];
  assert.deepEqual(Object.keys(endpoints).filter((id) => !waits.includes(id)), []);
});

test("certificate: HTTPS only, with today's protocols", () => {
  const secure = template({ certificate: "arn:aws:acm:eu-central-1:111122223333:certificate/0000" });
  const [, listener] = resource(secure, "AWS::ElasticLoadBalancingV2::Listener");
  assert.deepEqual([listener["Port"], listener["Protocol"]], [443, "HTTPS"]);
  assert.match(listener["SslPolicy"], /TLS13-1-2/);
  assert.deepEqual(rules(secure, "Ingress", "Balancer"), ["tcp CallerCidr 443"]);
});

test("faults: only who asks gets a back that can be broken", () => {
  assert.equal(environment(template({ faults: "true" }), "Back")["BACK_ENABLE_FAULTS"], "true");
});
