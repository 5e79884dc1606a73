import assert from "node:assert/strict";
import { test } from "node:test";
import { template, type Template } from "../lib/generated";
import { queries } from "../lib/queries";
import { ARTICLE, DIFFERENCES } from "./article";
import { facts, ROLES } from "./facts";
import { container, environment, resource, rules, service } from "./look";

/** Our facts, with those of the security groups, whose rules the two write in different places. */
function ours(made: Template): Record<string, unknown> {
  const found = facts(made, ROLES);
  for (const [role, group] of [["load balancer", "Balancer"], ["front", "Front"], ["back", "Back"]] as const) {
    for (const direction of ["Ingress", "Egress"] as const) {
      const named = rules(made, direction, group).map((rule) =>
        rule.replace("Balancer", "load balancer").replace("Front", "front").replace("Back", "back"),
      );
      found[`${direction.toLowerCase()}: ${role}`] = named;
    }
  }
  return found;
}

/** How two sets of facts differ: what the second says. */
function differences(first: Record<string, unknown>, second: Record<string, unknown>): Record<string, unknown> {
  const names = [...new Set([...Object.keys(first), ...Object.keys(second)])].sort();
  const differ = names.filter((name) => JSON.stringify(first[name]) !== JSON.stringify(second[name]));
  return Object.fromEntries(differ.map((name) => [name, second[name]]));
}

/** The differences that have a reason. */
function explained(): Record<string, unknown> {
  const all: Record<string, unknown> = Object.assign({}, ...DIFFERENCES.map(({ ours }) => ours));
  // As many as there are files.
  const count = "count: AWS::Logs::QueryDefinition";
  if (queries().length === 0) delete all[count];
  else all[count] = queries().length;
  return Object.fromEntries(Object.keys(all).sort().map((name) => [name, all[name]]));
}

const last = template({ profile: "article", ttl: "30", drain: "30" });

test("the profile article is the article's stack, resource by resource, but for what is explained", () => {
  assert.deepEqual(differences(ARTICLE, ours(last)), explained());
});

test("a difference that nobody explained is seen: a value, a property more, one less, a resource more", () => {
  for (const change of [
    (t: Template) => (service(t, "Back")["DeploymentConfiguration"].MinimumHealthyPercent = 100),
    (t: Template) => (container(t, "Back")["StopTimeout"] = 60),
    (t: Template) => delete service(t, "Front")["HealthCheckGracePeriodSeconds"],
    (t: Template) => (t.Resources["More"] = { Type: "AWS::EC2::NatGateway", Properties: {} }),
    (t: Template) => (resource(t, "AWS::EC2::SecurityGroup", "Balancer")[1]["SecurityGroupIngress"][0].FromPort = 1),
    (t: Template) => (resource(t, "AWS::ServiceDiscovery::Service")[1]["DnsConfig"].DnsRecords[0].TTL = 31),
  ]) {
    const changed = structuredClone(last);
    change(changed);
    assert.notDeepEqual(differences(ARTICLE, ours(changed)), explained(), `not noticed: ${change}`);
  }
});

test("no fact is explained twice, and each explanation is a sentence", () => {
  const names = DIFFERENCES.flatMap(({ ours }) => Object.keys(ours));
  assert.equal(new Set(names).size, names.length);
  for (const { why } of DIFFERENCES) assert.match(why, /^[A-Z].*\.$/);
});

test("its three runs differ in the TTL and the drain, and in nothing else", () => {
  const first = ours(template({ profile: "article" }));
  const second = ours(template({ profile: "article", ttl: "15", drain: "0" }));
  assert.equal(first["record: DnsConfig.DnsRecords.TTL"], 60);
  assert.deepEqual(differences(first, second), { "record: DnsConfig.DnsRecords.TTL": 15 });
  assert.deepEqual(differences(second, ours(last)), {
    "back task: ContainerDefinitions.Environment.INIT_DRAIN": "30s",
    "back task: ContainerDefinitions.Environment.INIT_GRACE": "0s",
    "record: DnsConfig.DnsRecords.TTL": 30,
  });
});

test("ECS's own stop timeout holds, of which init is told nothing", () => {
  for (const name of ["Back", "Front"] as const) {
    assert.equal(container(last, name)["StopTimeout"], undefined);
    assert.equal(environment(last, name)["INIT_STOP_TIMEOUT"], undefined);
  }
});
