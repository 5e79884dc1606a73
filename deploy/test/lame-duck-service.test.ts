import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { App, CfnParameter, Duration, Stack } from "aws-cdk-lib";
import * as cloudwatch from "aws-cdk-lib/aws-cloudwatch";
import { Annotations, Match, Template } from "aws-cdk-lib/assertions";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as servicediscovery from "aws-cdk-lib/aws-servicediscovery";
import { LameDuckService, type LameDuckServiceProps } from "../lib/lame-duck-service";
import { fiveLines } from "./five-lines";

/** A stack with one service of these properties. */
function make(props: Partial<LameDuckServiceProps> = {}, namespaceName = "shop.internal") {
  const stack = new Stack(new App(), "Shop");
  const vpc = new ec2.Vpc(stack, "Vpc");
  const service = new LameDuckService(stack, "Orders", {
    cluster: new ecs.Cluster(stack, "Cluster", { vpc }),
    namespace: new servicediscovery.PrivateDnsNamespace(stack, "Namespace", { name: namespaceName, vpc }),
    name: "orders",
    image: ecs.ContainerImage.fromRegistry("registry.example/orders:7"),
    port: 8080,
    ...props,
  });
  return { stack, service };
}

const of = (props: Partial<LameDuckServiceProps>) => Template.fromStack(make(props).stack);

const container = (template: Template) =>
  (Object.values(template.findResources("AWS::ECS::TaskDefinition"))[0] as { Properties: Record<string, any> }).Properties[
    "ContainerDefinitions"
  ][0];

test("five lines make a service whose numbers fit, that callers may reach, and that goes back if it fails", () => {
  const stack = new Stack(new App(), "Shop");
  const orders = fiveLines(stack);
  assert.deepEqual(orders.budget, { drain: 35, grace: 25, stopTimeout: 60 });
  assert.equal(orders.dnsName, "orders.shop.internal");
  const template = Template.fromStack(stack);
  template.hasResourceProperties("AWS::ECS::Service", {
    DesiredCount: 2,
    DeploymentConfiguration: {
      MinimumHealthyPercent: 100,
      MaximumPercent: 200,
      DeploymentCircuitBreaker: { Enable: true, Rollback: true },
    },
    NetworkConfiguration: { AwsvpcConfiguration: { AssignPublicIp: "DISABLED" } },
  });
  template.hasResourceProperties("AWS::ServiceDiscovery::Service", { DnsConfig: { DnsRecords: [{ TTL: 30, Type: "A" }] } });
  template.hasResourceProperties("AWS::EC2::SecurityGroupIngress", { FromPort: 8080, ToPort: 8080 });
  const { StopTimeout, ReadonlyRootFilesystem, User, EntryPoint, Environment } = container(template);
  assert.deepEqual([StopTimeout, ReadonlyRootFilesystem, User, EntryPoint], [60, true, "65532:65532", undefined]);
  assert.deepEqual(Environment.slice(0, 3), [
    { Name: "INIT_DRAIN", Value: "35s" },
    { Name: "INIT_GRACE", Value: "25s" },
    { Name: "INIT_STOP_TIMEOUT", Value: "60s" },
  ]);
  Annotations.fromStack(stack).hasNoWarning("*", Match.anyValue());
  const [service] = Object.values(template.findResources("AWS::ECS::Service")) as [Record<string, any>];
  const [policy] = Object.keys(template.findResources("AWS::IAM::Policy"));
  assert.ok(service["DependsOn"].includes(policy), `a task may start before its role has its policy: ${service["DependsOn"]}`);
});

test("they are those of the README", () => {
  const lines = readFileSync(join(__dirname, "five-lines.ts"), "utf8").split("  // README\n")[1] ?? "";
  assert.equal(lines.trimEnd().split("\n").length, 5);
  const readme = readFileSync(join(__dirname, "..", "README.md"), "utf8");
  assert.ok(readme.includes(lines.replace(/^ {2}/gm, "")), `deploy/README.md does not show:\n${lines}`);
});

test("a command runs under init, as ECS then ignores the image's entrypoint and command", () => {
  const { EntryPoint, Command } = container(of({ command: ["my-server", "--port", "8080"] }));
  assert.deepEqual([EntryPoint, Command], [["/init", "--"], ["my-server", "--port", "8080"]]);
});

test("what is given is taken", () => {
  const { stack, service } = make({
    ttl: Duration.minutes(1),
    inFlight: Duration.seconds(30),
    stopTimeout: Duration.minutes(2),
    drainSignal: "USR1",
    healthPath: "/ready",
    health: { retries: 5 },
    environment: { LOG: "debug" },
    desiredCount: 6,
    maxHealthyPercent: 150,
    cpu: 1024,
    memoryLimitMiB: 2048,
    architecture: ecs.CpuArchitecture.X86_64,
    user: "1000:1000",
    writesToRoot: true,
    assignPublicIp: true,
    subnets: { subnetType: ec2.SubnetType.PUBLIC },
    circuitBreaker: false,
    rebalancesZones: false,
    drainsOnlyIfHealthy: false,
  });
  assert.deepEqual(service.budget, { drain: 65, grace: 55, stopTimeout: 120 });
  const template = Template.fromStack(stack);
  const { Environment, HealthCheck, User, ReadonlyRootFilesystem } = container(template);
  const names = Environment.map((it: { Name: string }) => it.Name);
  assert.deepEqual(names, ["INIT_DRAIN", "INIT_GRACE", "INIT_STOP_TIMEOUT", "INIT_DRAIN_SIGNAL", "LOG"]);
  assert.deepEqual([User, ReadonlyRootFilesystem, HealthCheck.Retries, HealthCheck.Interval], ["1000:1000", false, 5, 10]);
  assert.equal(HealthCheck.Command[3], "http://127.0.0.1:8080/ready");
  template.hasResourceProperties("AWS::ECS::TaskDefinition", { Cpu: "1024", Memory: "2048", RuntimePlatform: { CpuArchitecture: "X86_64" } });
  template.hasResourceProperties("AWS::ECS::Service", {
    DesiredCount: 6,
    AvailabilityZoneRebalancing: "DISABLED",
    DeploymentConfiguration: { MaximumPercent: 150, DeploymentCircuitBreaker: Match.absent() },
    NetworkConfiguration: { AwsvpcConfiguration: { AssignPublicIp: "ENABLED" } },
  });
});

test("a public address needs a public subnet, and its way out", () => {
  const service = Object.values(of({ assignPublicIp: true }).findResources("AWS::ECS::Service"))[0] as Record<string, any>;
  const subnets = service["Properties"].NetworkConfiguration.AwsvpcConfiguration.Subnets.map((it: { Ref: string }) => it.Ref);
  assert.match(subnets.join(), /^VpcPublicSubnet1\w+,VpcPublicSubnet2\w+$/);
  assert.ok(service["DependsOn"].some((id: string) => id.startsWith("VpcPublicSubnet1DefaultRoute")), service["DependsOn"]);
});

test("alarms of the service's own take its deployments back", () => {
  const stack = new Stack(new App(), "Shop");
  const metric = new cloudwatch.Metric({ namespace: "Shop", metricName: "Failed" });
  const alarm = new cloudwatch.Alarm(stack, "Failed", { metric, threshold: 1, evaluationPeriods: 1 });
  const vpc = new ec2.Vpc(stack, "Vpc");
  new LameDuckService(stack, "Orders", {
    cluster: new ecs.Cluster(stack, "Cluster", { vpc }),
    namespace: new servicediscovery.PrivateDnsNamespace(stack, "Namespace", { name: "shop.internal", vpc }),
    name: "orders",
    image: ecs.ContainerImage.fromRegistry("registry.example/orders:7"),
    port: 8080,
    deploymentAlarms: [alarm],
  });
  Template.fromStack(stack).hasResourceProperties("AWS::ECS::Service", {
    DeploymentConfiguration: { Alarms: { AlarmNames: [{ Ref: Match.stringLikeRegexp("^Failed") }], Enable: true, Rollback: true } },
  });
});

/** What the construct does not let pass: the properties, the message, and the namespace. */
const MISTAKES: [what: string, props: Partial<LameDuckServiceProps>, message: RegExp, namespaceName?: string][] = [
  ["a namespace of mDNS", {}, /namespace local ends in \.local.*RFC 6762/, "local"],
  ["a namespace in it", {}, /namespace shop\.LOCAL ends in \.local/, "shop.LOCAL"],
  ["half of the tasks during a deployment", { minHealthyPercent: 50 }, /minimum healthy percent of 50.*Give 100/],
  ["no room for a deployment", { maxHealthyPercent: 100 }, /maximum percent of 100.*would hang/],
  ["a stop timeout that is too short", { stopTimeout: Duration.seconds(30) }, /kills 30s after SIGTERM.*= 60s/],
  ["ECS's own stop timeout", { stopTimeout: "ecs-default" }, /kills 30s after SIGTERM/],
  ["a TTL that is too long", { ttl: Duration.minutes(5) }, /kills 120s.*Lower the TTL to at most 90s/],
  ["a TTL of nothing", { ttl: Duration.seconds(0) }, /TTL of 0s has every call ask DNS/],
  ["a TTL of half a second", { ttl: Duration.millis(500) }, /ttl is 0\.5: give a whole number/],
  ["a drain that is shorter than the TTL", { drain: Duration.seconds(10) }, /A drain of 10s is shorter/],
];

for (const [what, props, message, namespaceName] of MISTAKES) {
  test(`${what}: refused, and with a reason a warning`, () => {
    assert.throws(() => make(props, namespaceName), message);
    if (/whole number/.test(message.source)) return;
    const { stack } = make({ ...props, unsafe: "to see it fail" }, namespaceName);
    const pattern = Match.stringLikeRegexp(`${message.source}[\\s\\S]*Allowed: to see it fail`);
    Annotations.fromStack(stack).hasWarning("/Shop/Orders", pattern);
  });
}

test("what is only known at the deployment is refused: nobody could add it up", () => {
  const stack = new Stack(new App(), "Shop");
  const ttl = Duration.seconds(new CfnParameter(stack, "Ttl", { type: "Number" }).valueAsNumber);
  for (const props of [{ ttl }, { stopTimeout: ttl }, { inFlight: ttl }, { drain: ttl }]) {
    assert.throws(() => make(props), new RegExp(`${Object.keys(props)[0]} is not known before the deployment`));
  }
});

test("the environment does not contradict the stop budget", () => {
  for (const name of ["INIT_DRAIN", "INIT_GRACE", "INIT_STOP_TIMEOUT", "INIT_DNS_NAME"]) {
    assert.throws(() => make({ environment: { [name]: "1s" } }), new RegExp(`${name}=1s.*contradict.*drain 35s, grace 25s, stop timeout 60s`));
  }
});

test("root is refused", () => {
  for (const user of ["0", "root", "0:0", "root:root"]) assert.throws(() => make({ user }), /is root: give another one/);
});
