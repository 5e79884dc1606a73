/**
 * What the profile `recommended` promises, one choice each: how it is checked, and how the template looks to somebody who undid
 * it. The tests see each check hold, and see it red.
 */

import assert from "node:assert/strict";
import { Match, Template as Assertions } from "aws-cdk-lib/assertions";
import type { Properties, Template } from "../lib/generated";
import { queries } from "../lib/queries";
import { container, definition, environment, resource, resources, rules, seconds, service, setEnvironment } from "./look";

/** One choice. */
export interface Choice {
  readonly name: string;
  /** Throws unless it is kept. */
  readonly holds: (template: Template) => void;
  /** Ways to undo it; each has to be noticed. */
  readonly undo: ((template: Template) => void)[];
}

const BOTH = ["Back", "Front"] as const;
const CLOUD_MAP = "AWS::ServiceDiscovery::Service";
const NAMESPACE = "AWS::ServiceDiscovery::PrivateDnsNamespace";
const BALANCER = "AWS::ElasticLoadBalancingV2::LoadBalancer";
const TARGETS = "AWS::ElasticLoadBalancingV2::TargetGroup";
const LISTENER = "AWS::ElasticLoadBalancingV2::Listener";
const ALARM = "AWS::CloudWatch::Alarm";

/** The article's charts. */
const ON_DASHBOARD = ["distribution", "drains-by-task", "failures-by-cause", "failures-over-time", "handover"];

/** A text as it is in the JSON of a dashboard, which is a text of the template. */
const inJson = (text: string) => JSON.stringify(text.startsWith('"') ? text : JSON.stringify(text).slice(1, -1)).slice(1, -1);

/** All resources of a type are like this, and there are `count`. */
function all(template: Template, type: string, count: number, properties: unknown): void {
  const assertions = Assertions.fromJSON(template);
  assertions.resourceCountIs(type, count);
  assertions.allResourcesProperties(type, properties);
}

function one(template: Template, type: string, properties: unknown): void {
  all(template, type, 1, properties);
}

function attribute(properties: Properties, list: string, key: string): string | undefined {
  return properties[list].find((it: Properties) => it["Key"] === key)?.["Value"];
}

function setAttribute(properties: Properties, list: string, key: string, value: string): void {
  properties[list] = properties[list].map((it: Properties) => (it["Key"] === key ? { Key: key, Value: value } : it));
}

function statements(template: Template): Properties[] {
  return Object.values(resources(template, "AWS::IAM::Policy")).flatMap((it) => it["PolicyDocument"].Statement);
}

const policy = (template: Template) => Object.values(resources(template, "AWS::IAM::Policy"))[0] as Properties;

/** Adds a rule beside the group's own. */
function open(template: Template, group: string, port: number): void {
  const [id] = resource(template, "AWS::EC2::SecurityGroup", group);
  template.Resources["Hole"] = {
    Type: "AWS::EC2::SecurityGroupIngress",
    Properties: { GroupId: { "Fn::GetAtt": [id, "GroupId"] }, IpProtocol: "tcp", FromPort: port, ToPort: port, CidrIp: "0.0.0.0/0" },
  };
}

const ingressRule = (template: Template, group: string): Properties => {
  const [id] = resource(template, "AWS::EC2::SecurityGroup", group);
  const beside = Object.values(resources(template, "AWS::EC2::SecurityGroupIngress"));
  return beside.find((rule) => rule["GroupId"]["Fn::GetAtt"][0] === id) as Properties;
};

export const CHOICES: Choice[] = [
  {
    name: "the namespace does not end in .local",
    holds: (t) => one(t, NAMESPACE, { Name: Match.stringLikeRegexp("^[a-z.]+\\.internal$") }),
    undo: [(t) => (resource(t, NAMESPACE)[1]["Name"] = "local"), (t) => (resource(t, NAMESPACE)[1]["Name"] = "fsde.local")],
  },
  {
    name: "the answer that there is no such name is kept for 15 s",
    holds: (t) => one(t, NAMESPACE, { Properties: { DnsProperties: { SOA: { TTL: 15 } } } }),
    undo: [
      (t) => delete resource(t, NAMESPACE)[1]["Properties"],
      (t) => (resource(t, NAMESPACE)[1]["Properties"].DnsProperties.SOA.TTL = 900),
    ],
  },
  {
    name: "back is reached by front only, on 1235 only",
    holds: (t) => assert.deepEqual(rules(t, "Ingress", "Back"), ["tcp Front 1235"]),
    undo: [
      (t) => open(t, "Back", 1235),
      (t) => (ingressRule(t, "Back")["ToPort"] = 65535),
      (t) => (ingressRule(t, "Back")["SourceSecurityGroupId"] = { "Fn::GetAtt": ["BalancerSecurityGroup78C53E25", "GroupId"] }),
      (t) => (resource(t, "AWS::EC2::SecurityGroup", "Back")[1]["SecurityGroupIngress"] = [{ IpProtocol: "-1", CidrIp: "0.0.0.0/0" }]),
    ],
  },
  {
    name: "front is reached by the load balancer only, on 1234 only",
    holds: (t) => assert.deepEqual(rules(t, "Ingress", "Front"), ["tcp Balancer 1234"]),
    undo: [(t) => open(t, "Front", 1234), (t) => (ingressRule(t, "Front")["FromPort"] = 1)],
  },
  {
    name: "the load balancer is reached by those whom the parameter names",
    holds: (t) => {
      assert.deepEqual(rules(t, "Ingress", "Balancer"), ["tcp CallerCidr 80"]);
      assert.equal(t.Parameters["CallerCidr"]?.["Default"], undefined);
    },
    undo: [
      (t) => open(t, "Balancer", 80),
      (t) => ((t.Parameters["CallerCidr"] as Properties)["Default"] = "0.0.0.0/0"),
      (t) => (resource(t, "AWS::EC2::SecurityGroup", "Balancer")[1]["SecurityGroupIngress"][0].CidrIp = "0.0.0.0/0"),
    ],
  },
  {
    name: "security groups let out what is needed: the next hop, and HTTPS for images and logs",
    holds: (t) => {
      assert.deepEqual(rules(t, "Egress", "Balancer"), ["tcp Front 1234"]);
      assert.deepEqual(rules(t, "Egress", "Front"), ["tcp 0.0.0.0/0 443", "tcp Back 1235"]);
      assert.deepEqual(rules(t, "Egress", "Back"), ["tcp 0.0.0.0/0 443"]);
    },
    undo: [
      (t) => (resource(t, "AWS::EC2::SecurityGroup", "Back")[1]["SecurityGroupEgress"] = [{ IpProtocol: "-1", CidrIp: "0.0.0.0/0" }]),
      (t) => (resource(t, "AWS::EC2::SecurityGroup", "Front")[1]["SecurityGroupEgress"][0].FromPort = 0),
      (t) => delete t.Resources[Object.keys(resources(t, "AWS::EC2::SecurityGroupEgress"))[0] ?? ""],
    ],
  },
  {
    name: "four tasks of back, on ARM64 Fargate",
    holds: (t) => {
      assert.equal(service(t, "Back")["DesiredCount"], 4);
      all(t, "AWS::ECS::Service", 2, { LaunchType: "FARGATE" });
      all(t, "AWS::ECS::TaskDefinition", 2, {
        RequiresCompatibilities: ["FARGATE"],
        NetworkMode: "awsvpc",
        RuntimePlatform: { CpuArchitecture: "ARM64", OperatingSystemFamily: "LINUX" },
      });
    },
    undo: [
      (t) => (service(t, "Back")["DesiredCount"] = 1),
      (t) => (service(t, "Back")["LaunchType"] = "EC2"),
      (t) => (definition(t, "Back")["RuntimePlatform"].CpuArchitecture = "X86_64"),
      (t) => delete definition(t, "Front")["RuntimePlatform"],
    ],
  },
  {
    name: "two tasks of front, so that it has one while the other is replaced or its zone lost",
    holds: (t) => assert.equal(service(t, "Front")["DesiredCount"], 2),
    undo: [(t) => (service(t, "Front")["DesiredCount"] = 1)],
  },
  {
    name: "back's tasks have A records with the TTL that was asked for, all of them in an answer",
    holds: (t) => {
      one(t, CLOUD_MAP, {
        DnsConfig: { DnsRecords: [{ Type: "A", TTL: 30 }], RoutingPolicy: "MULTIVALUE" },
        HealthCheckCustomConfig: { FailureThreshold: 1 },
      });
      const [id] = resource(t, CLOUD_MAP);
      assert.deepEqual(service(t, "Back")["ServiceRegistries"], [{ RegistryArn: { "Fn::GetAtt": [id, "Arn"] } }]);
    },
    undo: [
      (t) => (resource(t, CLOUD_MAP)[1]["DnsConfig"].DnsRecords[0].TTL = 60),
      (t) => (resource(t, CLOUD_MAP)[1]["DnsConfig"].DnsRecords[0].Type = "SRV"),
      (t) => (resource(t, CLOUD_MAP)[1]["DnsConfig"].RoutingPolicy = "WEIGHTED"),
      (t) => delete service(t, "Back")["ServiceRegistries"],
    ],
  },
  {
    name: "front asks for back by the name that Cloud Map gives it",
    holds: (t) => {
      const name = `${resource(t, CLOUD_MAP)[1]["Name"]}.${resource(t, NAMESPACE)[1]["Name"]}`;
      assert.equal(environment(t, "Front")["FRONT_BACKEND"], `http://${name}:${container(t, "Back")["PortMappings"][0].ContainerPort}`);
    },
    undo: [
      (t) => (resource(t, CLOUD_MAP)[1]["Name"] = "back"),
      (t) => (resource(t, NAMESPACE)[1]["Name"] = "example.internal"),
      (t) => (container(t, "Back")["PortMappings"][0].ContainerPort = 80),
    ],
  },
  {
    name: "the load balancer asks front for /health, and the listener forwards to front",
    holds: (t) => {
      one(t, TARGETS, {
        HealthCheckPath: "/health",
        Matcher: { HttpCode: "200" },
        Port: 1234,
        Protocol: "HTTP",
        TargetType: "ip",
        HealthCheckIntervalSeconds: 10,
        HealthCheckTimeoutSeconds: 5,
      });
      const [id] = resource(t, TARGETS);
      one(t, LISTENER, { Port: 80, Protocol: "HTTP", DefaultActions: [{ Type: "forward", TargetGroupArn: { Ref: id } }] });
      assert.deepEqual(service(t, "Front")["LoadBalancers"], [
        { ContainerName: "app", ContainerPort: 1234, TargetGroupArn: { Ref: id } },
      ]);
    },
    undo: [
      (t) => (resource(t, TARGETS)[1]["HealthCheckPath"] = "/"),
      (t) => (resource(t, LISTENER)[1]["DefaultActions"][0].TargetGroupArn.Ref = "Other"),
      (t) => delete service(t, "Front")["LoadBalancers"],
    ],
  },
  {
    name: "containers are checked through init, without a shell or curl",
    holds: (t) => {
      for (const [name, port] of [["Back", 1235], ["Front", 1234]] as const) {
        const { Command, ...times } = container(t, name)["HealthCheck"];
        assert.deepEqual(Command, ["CMD", "/init", "--check", `http://127.0.0.1:${port}/health`]);
        assert.deepEqual(times, { Interval: 10, Retries: 3, StartPeriod: 10, Timeout: 5 });
      }
    },
    undo: [
      ...BOTH.map((name) => (t: Template) => delete container(t, name)["HealthCheck"]),
      (t) => (container(t, "Back")["HealthCheck"].Command = ["CMD-SHELL", "curl -f http://localhost:1235 || exit 1"]),
      (t) => (container(t, "Front")["HealthCheck"].Interval = 30),
    ],
  },
  {
    name: "every container logs to a group of its own that forgets, and does not wait for it",
    holds: (t) => {
      const groups = BOTH.map((name) => {
        const { LogDriver, Options } = container(t, name)["LogConfiguration"];
        assert.deepEqual([LogDriver, Options.mode], ["awslogs", "non-blocking"]);
        return Options["awslogs-group"].Ref;
      });
      assert.deepEqual(groups.sort(), Object.keys(resources(t, "AWS::Logs::LogGroup")).sort());
      all(t, "AWS::Logs::LogGroup", 2, { RetentionInDays: 30 });
      Assertions.fromJSON(t).allResources("AWS::Logs::LogGroup", { DeletionPolicy: "Delete" });
    },
    undo: [
      (t) => delete resource(t, "AWS::Logs::LogGroup", "Back")[1]["RetentionInDays"],
      (t) => delete container(t, "Front")["LogConfiguration"].Options.mode,
      (t) => (container(t, "Front")["LogConfiguration"].Options["awslogs-group"] = container(t, "Back")["LogConfiguration"].Options["awslogs-group"]),
      (t) => ((t.Resources[resource(t, "AWS::Logs::LogGroup", "Back")[0]] as Properties)["DeletionPolicy"] = "Retain"),
    ],
  },
  {
    name: "ECS may write the task's own log for it, and nothing else; the application may nothing",
    holds: (t) => {
      const logs = Object.keys(resources(t, "AWS::Logs::LogGroup"));
      assert.equal(statements(t).length, 2);
      for (const statement of statements(t)) {
        assert.deepEqual(statement["Action"], ["logs:CreateLogStream", "logs:PutLogEvents"]);
        assert.equal(statement["Effect"], "Allow");
        assert.ok(logs.includes(statement["Resource"]?.["Fn::GetAtt"]?.[0]), JSON.stringify(statement["Resource"]));
      }
      const withPolicy = Object.values(resources(t, "AWS::IAM::Policy")).flatMap((it) => it["Roles"]);
      const execution = BOTH.map((name) => ({ Ref: definition(t, name)["ExecutionRoleArn"]["Fn::GetAtt"][0] }));
      assert.deepEqual(withPolicy, execution);
      for (const role of Object.values(resources(t, "AWS::IAM::Role"))) {
        assert.deepEqual([role["ManagedPolicyArns"], role["Policies"]], [undefined, undefined]);
      }
    },
    undo: [
      (t) => policy(t)["PolicyDocument"].Statement.push({ Action: "s3:*", Effect: "Allow", Resource: "*" }),
      (t) => (policy(t)["PolicyDocument"].Statement[0].Resource = "*"),
      (t) => policy(t)["PolicyDocument"].Statement[0].Action.push("logs:CreateLogGroup"),
      (t) => (policy(t)["Roles"] = [{ Ref: definition(t, "Back")["TaskRoleArn"]["Fn::GetAtt"][0] }]),
      (t) => (resource(t, "AWS::IAM::Role", "BackTaskTask")[1]["ManagedPolicyArns"] = ["arn:aws:iam::aws:policy/AdministratorAccess"]),
    ],
  },
  {
    name: "roles are for ECS tasks of this account only",
    holds: (t) =>
      all(t, "AWS::IAM::Role", 4, {
        AssumeRolePolicyDocument: {
          Statement: [
            {
              Action: "sts:AssumeRole",
              Principal: { Service: "ecs-tasks.amazonaws.com" },
              Condition: { StringEquals: { "aws:SourceAccount": { Ref: "AWS::AccountId" } }, ArnLike: { "aws:SourceArn": Match.anyValue() } },
            },
          ],
        },
      }),
    undo: [
      (t) => delete resource(t, "AWS::IAM::Role", "FrontTaskExecution")[1]["AssumeRolePolicyDocument"].Statement[0].Condition,
      (t) => (resource(t, "AWS::IAM::Role", "BackTaskTask")[1]["AssumeRolePolicyDocument"].Statement[0].Principal = { AWS: "*" }),
    ],
  },
  {
    name: "a deployment starts all successors before it stops a task: 100 and 200 per cent",
    holds: (t) =>
      all(t, "AWS::ECS::Service", 2, { DeploymentConfiguration: Match.objectLike({ MinimumHealthyPercent: 100, MaximumPercent: 200 }) }),
    undo: [
      ...BOTH.map((name) => (t: Template) => (service(t, name)["DeploymentConfiguration"].MinimumHealthyPercent = 50)),
      (t) => delete service(t, "Back")["DeploymentConfiguration"].MinimumHealthyPercent,
      (t) => (service(t, "Back")["DeploymentConfiguration"].MaximumPercent = 100),
    ],
  },
  {
    name: "a deployment whose tasks do not become healthy is taken back",
    holds: (t) =>
      all(t, "AWS::ECS::Service", 2, {
        DeploymentConfiguration: Match.objectLike({ DeploymentCircuitBreaker: { Enable: true, Rollback: true } }),
      }),
    undo: [
      ...BOTH.map((name) => (t: Template) => delete service(t, name)["DeploymentConfiguration"].DeploymentCircuitBreaker),
      (t) => (service(t, "Back")["DeploymentConfiguration"].DeploymentCircuitBreaker.Rollback = false),
    ],
  },
  {
    name: "a deployment during which requests fail is taken back",
    holds: (t) => {
      const [failures] = resource(t, ALARM, "Failures");
      const [balancer] = resource(t, ALARM, "BalancerFailures");
      const [unhealthy] = resource(t, ALARM, "UnhealthyFront");
      const expected = { Back: [failures], Front: [failures, balancer, unhealthy] };
      for (const name of BOTH) {
        const AlarmNames = expected[name].map((id) => ({ Ref: id }));
        assert.deepEqual(service(t, name)["DeploymentConfiguration"].Alarms, { AlarmNames, Enable: true, Rollback: true });
      }
      all(t, ALARM, 3, { TreatMissingData: "notBreaching", Namespace: "AWS/ApplicationELB", Period: 60 });
      const of = (prefix: string) => {
        const { MetricName, Statistic, Threshold, EvaluationPeriods } = resource(t, ALARM, prefix)[1];
        return [MetricName, Statistic, Threshold, EvaluationPeriods];
      };
      assert.deepEqual(of("Failures"), ["HTTPCode_Target_5XX_Count", "Sum", 5, 1]);
      assert.deepEqual(of("BalancerFailures"), ["HTTPCode_ELB_5XX_Count", "Sum", 5, 1]);
      assert.deepEqual(of("UnhealthyFront"), ["UnHealthyHostCount", "Maximum", 1, 2]);
    },
    undo: [
      ...BOTH.map((name) => (t: Template) => delete service(t, name)["DeploymentConfiguration"].Alarms),
      (t) => (service(t, "Back")["DeploymentConfiguration"].Alarms.Rollback = false),
      (t) => service(t, "Front")["DeploymentConfiguration"].Alarms.AlarmNames.pop(),
      (t) => (resource(t, ALARM, "Failures")[1]["TreatMissingData"] = "missing"),
      (t) => (resource(t, ALARM, "Failures")[1]["MetricName"] = "HTTPCode_Target_2XX_Count"),
      (t) => (resource(t, ALARM, "UnhealthyFront")[1]["Threshold"] = 2),
    ],
  },
  {
    name: "stopTimeout and INIT_STOP_TIMEOUT agree, and drain, grace and what is in flight fit in it",
    holds: (t) => {
      const ttl = resource(t, CLOUD_MAP)[1]["DnsConfig"].DnsRecords[0].TTL;
      for (const [name, named] of [["Back", ttl + 5], ["Front", 5]] as const) {
        const variables = environment(t, name);
        const [drain, grace, stopTimeout, inFlight] = [
          "INIT_DRAIN",
          "INIT_GRACE",
          "INIT_STOP_TIMEOUT",
          `${name.toUpperCase()}_DRAIN_TIMEOUT`,
        ].map((variable) => seconds(variables[variable])) as [number, number, number, number];
        assert.equal(container(t, name)["StopTimeout"], stopTimeout, name);
        assert.equal(drain + grace, stopTimeout, name);
        assert.ok(drain >= named, `${name}: a drain of ${drain}s does not outlive ${named}s`);
        assert.ok(inFlight < grace, `${name}: ${inFlight}s in flight do not fit in a grace of ${grace}s`);
        assert.ok(stopTimeout <= 120, `${name}: Fargate does not wait ${stopTimeout}s`);
      }
    },
    undo: [
      ...BOTH.flatMap((name) => [
        (t: Template) => (container(t, name)["StopTimeout"] = 25),
        (t: Template) => delete container(t, name)["StopTimeout"],
        (t: Template) => setEnvironment(t, name, "INIT_STOP_TIMEOUT", "90s"),
        (t: Template) => setEnvironment(t, name, "INIT_GRACE", "5s"),
        (t: Template) => setEnvironment(t, name, `${name.toUpperCase()}_DRAIN_TIMEOUT`, "30s"),
      ]),
      (t) => (resource(t, CLOUD_MAP)[1]["DnsConfig"].DnsRecords[0].TTL = 31),
    ],
  },
  {
    name: "a task says Connection: close as its lame duck begins, and one that is ill has none",
    holds: (t) => {
      for (const [name, port] of [["Back", 1235], ["Front", 1234]] as const) {
        const { INIT_DRAIN_SIGNAL, INIT_HEALTH_URL } = environment(t, name);
        assert.deepEqual([INIT_DRAIN_SIGNAL, INIT_HEALTH_URL], ["USR1", `http://127.0.0.1:${port}/health`]);
      }
    },
    undo: BOTH.flatMap((name) => [
      (t: Template) => setEnvironment(t, name, "INIT_DRAIN_SIGNAL", "TERM"),
      (t: Template) => setEnvironment(t, name, "INIT_HEALTH_URL", ""),
    ]),
  },
  {
    name: "containers write nothing, may nothing, and are nobody",
    holds: (t) => {
      for (const name of BOTH) {
        const { ReadonlyRootFilesystem, User, LinuxParameters, Privileged } = container(t, name);
        assert.deepEqual(
          { ReadonlyRootFilesystem, User, LinuxParameters, Privileged },
          { ReadonlyRootFilesystem: true, User: "65532:65532", LinuxParameters: { Capabilities: { Drop: ["ALL"] } }, Privileged: undefined },
        );
      }
    },
    undo: BOTH.flatMap((name) => [
      (t: Template) => (container(t, name)["ReadonlyRootFilesystem"] = false),
      (t: Template) => delete container(t, name)["User"],
      (t: Template) => (container(t, name)["User"] = "0"),
      (t: Template) => delete container(t, name)["LinuxParameters"],
    ]),
  },
  {
    name: "tasks have no public addresses, and two NAT gateways to get out",
    holds: (t) => {
      const ids = Object.keys(resources(t, "AWS::EC2::Subnet"));
      for (const name of BOTH) {
        const { AssignPublicIp, Subnets } = service(t, name)["NetworkConfiguration"].AwsvpcConfiguration;
        assert.equal(AssignPublicIp, "DISABLED");
        assert.deepEqual(Subnets.map((it: Properties) => it["Ref"]), ids.filter((id) => id.includes("tasks")));
      }
      all(t, "AWS::EC2::NatGateway", 2, {});
      all(t, "AWS::EC2::Subnet", 4, { MapPublicIpOnLaunch: false });
    },
    undo: [
      ...BOTH.map((name) => (t: Template) => (service(t, name)["NetworkConfiguration"].AwsvpcConfiguration.AssignPublicIp = "ENABLED")),
      (t) => (service(t, "Back")["NetworkConfiguration"].AwsvpcConfiguration.Subnets = resource(t, BALANCER)[1]["Subnets"]),
      (t) => delete t.Resources[Object.keys(resources(t, "AWS::EC2::NatGateway"))[0] ?? ""],
      (t) => ((Object.values(resources(t, "AWS::EC2::Subnet"))[0] as Properties)["MapPublicIpOnLaunch"] = true),
    ],
  },
  {
    name: "the load balancer closes idle connections before front does",
    holds: (t) => {
      const idle = attribute(resource(t, BALANCER)[1], "LoadBalancerAttributes", "idle_timeout.timeout_seconds");
      assert.ok(Number(idle) < seconds(environment(t, "Front")["FRONT_CALLER_IDLE_TIMEOUT"]), `it keeps them for ${idle}s`);
    },
    undo: [
      (t) => setAttribute(resource(t, BALANCER)[1], "LoadBalancerAttributes", "idle_timeout.timeout_seconds", "75"),
      (t) => setEnvironment(t, "Front", "FRONT_CALLER_IDLE_TIMEOUT", "60s"),
      (t) => (resource(t, BALANCER)[1]["LoadBalancerAttributes"] = []),
    ],
  },
  {
    name: "the load balancer drops headers that are none",
    holds: (t) =>
      assert.equal(attribute(resource(t, BALANCER)[1], "LoadBalancerAttributes", "routing.http.drop_invalid_header_fields.enabled"), "true"),
    undo: [(t) => setAttribute(resource(t, BALANCER)[1], "LoadBalancerAttributes", "routing.http.drop_invalid_header_fields.enabled", "false")],
  },
  {
    name: "a task of front that leaves has 30 s for what the load balancer has sent it",
    holds: (t) => assert.equal(attribute(resource(t, TARGETS)[1], "TargetGroupAttributes", "deregistration_delay.timeout_seconds"), "30"),
    undo: [
      (t) => (resource(t, TARGETS)[1]["TargetGroupAttributes"] = []),
      (t) => setAttribute(resource(t, TARGETS)[1], "TargetGroupAttributes", "deregistration_delay.timeout_seconds", "300"),
    ],
  },
  {
    name: "ECS may move tasks between zones: the lame duck covers that, too",
    holds: (t) => all(t, "AWS::ECS::Service", 2, { AvailabilityZoneRebalancing: "ENABLED" }),
    undo: BOTH.map((name) => (t: Template) => delete service(t, name)["AvailabilityZoneRebalancing"]),
  },
  {
    name: "nobody gets a shell, and the tasks carry the service's tags",
    holds: (t) => all(t, "AWS::ECS::Service", 2, { EnableExecuteCommand: false, EnableECSManagedTags: true, PropagateTags: "SERVICE" }),
    undo: [
      (t) => (service(t, "Back")["EnableExecuteCommand"] = true),
      (t) => delete service(t, "Front")["PropagateTags"],
    ],
  },
  {
    name: "no task starts before it may log and can reach its registry, and front is deployed after back",
    holds: (t) => {
      const policies = Object.keys(resources(t, "AWS::IAM::Policy"));
      const [back, front] = BOTH.map((name) => t.Resources[resource(t, "AWS::ECS::Service", name)[0]]?.DependsOn ?? []) as [string[], string[]];
      const routes = Object.keys(resources(t, "AWS::EC2::Route")).filter((id) => id.includes("tasks"));
      const need = (ids: string[], of: string[]) => assert.deepEqual(ids.filter((id) => !of.includes(id)), []);
      assert.equal(routes.length, 2);
      need([...routes, ...policies.filter((id) => id.startsWith("Back"))], back);
      need([resource(t, "AWS::ECS::Service", "Back")[0], ...policies.filter((id) => id.startsWith("Front"))], front);
    },
    undo: BOTH.flatMap((name) => {
      const drop = (part: string) => (t: Template) => {
        const it = t.Resources[resource(t, "AWS::ECS::Service", name)[0]] as Properties;
        it["DependsOn"] = it["DependsOn"].filter((id: string) => !id.includes(part));
      };
      return [drop("Policy"), drop(name === "Back" ? "DefaultRoute" : "BackService")];
    }),
  },
  {
    name: "back cannot be broken from outside",
    holds: (t) => assert.equal(environment(t, "Back")["BACK_ENABLE_FAULTS"], "false"),
    undo: [(t) => setEnvironment(t, "Back", "BACK_ENABLE_FAULTS", "true")],
  },
  {
    name: "images are parameters with a tag or a digest; nothing has to be uploaded or prepared",
    holds: (t) => {
      for (const name of BOTH) {
        const parameter = t.Parameters[`${name}Image`] ?? {};
        assert.deepEqual(container(t, name)["Image"], { Ref: `${name}Image` });
        assert.equal(parameter["Default"], undefined);
        const pattern = new RegExp(parameter["AllowedPattern"]);
        const digest = `sha256:${"0123456789abcdef".repeat(4)}`;
        for (const good of ["ghcr.io/o/r/back:1.0.0", "localhost:5000/back:7", `ghcr.io/o/r/back@${digest}`]) assert.match(good, pattern);
        for (const bad of ["", "back", "ghcr.io/o/r/back", "back:", "back@sha256:12", "a b:1"]) assert.doesNotMatch(bad, pattern);
      }
      assert.doesNotMatch(JSON.stringify(t), /cdk-bootstrap|cdk-hnb659fds|AssetParameters/);
    },
    undo: [
      (t) => (container(t, "Back")["Image"] = "amazon/amazon-ecs-sample"),
      (t) => ((t.Parameters["FrontImage"] as Properties)["Default"] = "front:latest"),
      (t) => ((t.Parameters["FrontImage"] as Properties)["AllowedPattern"] = ".*"),
      (t) => (t.Parameters["BootstrapVersion"] = { Default: "/cdk-bootstrap/hnb659fds/version" }),
    ],
  },
  {
    name: "what the load balancer and the tasks do is on a dashboard, with the article's charts; all queries are saved",
    holds: (t) => {
      const body = JSON.stringify(resource(t, "AWS::CloudWatch::Dashboard")[1]["DashboardBody"]);
      for (const metric of ["RequestCount", "HTTPCode_Target_5XX_Count", "HTTPCode_ELB_5XX_Count", "TargetResponseTime", "UnHealthyHostCount", "CPUUtilization"]) {
        assert.ok(body.includes(metric), `the dashboard lacks ${metric}`);
      }
      const saved = Object.values(resources(t, "AWS::Logs::QueryDefinition"));
      assert.equal(saved.length, queries().length);
      for (const { text, title, name, logs } of queries()) {
        const found = saved.find((it) => it["QueryString"] === text);
        const groups = logs.map((whose) => resource(t, "AWS::Logs::LogGroup", whose === "back" ? "Back" : "Front")[0]);
        assert.deepEqual(found?.["LogGroupNames"], groups.map((id) => ({ Ref: id })), name);
        if (ON_DASHBOARD.includes(name)) assert.ok(body.includes(inJson(title)), `the dashboard lacks "${title}"`);
      }
      const shown = body.split(inJson('"type":"log"')).length - 1;
      assert.equal(shown, queries().filter(({ name }) => ON_DASHBOARD.includes(name)).length);
    },
    undo: [
      (t) => (resource(t, "AWS::CloudWatch::Dashboard")[1]["DashboardBody"] = "{}"),
      (t) => delete t.Resources[Object.keys(resources(t, "AWS::Logs::QueryDefinition"))[0] ?? ""],
      (t) => {
        for (const query of Object.values(resources(t, "AWS::Logs::QueryDefinition"))) query["LogGroupNames"] = [{ Ref: "Other" }];
      },
      (t) => (t.Resources["Another"] = { Type: "AWS::Logs::QueryDefinition", Properties: { QueryString: "stats count()", LogGroupNames: [] } }),
    ],
  },
];
