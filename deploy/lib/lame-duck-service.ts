/** A Fargate service behind a DNS name, whose tasks are deployed without a failed request. */

import { Duration, Token } from "aws-cdk-lib";
import * as cloudwatch from "aws-cdk-lib/aws-cloudwatch";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as servicediscovery from "aws-cdk-lib/aws-servicediscovery";
import { Construct } from "constructs";
import { divide, ECS_DEFAULT, type StopBudget } from "./stop-budget";
import { LameDuckTask, refuse, type LameDuckTaskProps } from "./task";

/** What the service is. */
export interface LameDuckServiceProps extends Omit<LameDuckTaskProps, "budget" | "isStopTimeoutDefault"> {
  /** Where it runs. */
  readonly cluster: ecs.ICluster;
  /** The private DNS namespace, whose name does not end in `.local`. */
  readonly namespace: servicediscovery.INamespace;
  /** The first label of the name by which callers find the tasks: `NAME.NAMESPACE`. */
  readonly name: string;

  /** The TTL of the record. A number that is known at synth: the stop budget is made of it. @default 30 s */
  readonly ttl?: Duration;
  /** See `StopTimes.dnsMargin`. @default 5 s */
  readonly dnsMargin?: Duration;
  /** See `StopTimes.inFlight`. @default 20 s */
  readonly inFlight?: Duration;
  /** See `StopTimes.exitMargin`. @default 5 s */
  readonly exitMargin?: Duration;
  /** The lame duck's length. @default TTL + DNS margin, and not less */
  readonly drain?: Duration;
  /** What ECS waits between SIGTERM and SIGKILL; `"ecs-default"` leaves it out. @default just what is needed */
  readonly stopTimeout?: Duration | "ecs-default";

  /** How many tasks. @default 2 */
  readonly desiredCount?: number;
  /** How many of them stay healthy during a deployment. @default 100, and not less */
  readonly minHealthyPercent?: number;
  /** How many there are at most during a deployment. @default 200 */
  readonly maxHealthyPercent?: number;
  /** Whether a deployment whose tasks do not become healthy is ended and taken back. @default true */
  readonly circuitBreaker?: boolean;
  /** Any of these in ALARM ends a deployment and takes it back. @default none */
  readonly deploymentAlarms?: cloudwatch.IAlarm[];
  /**
   * Whether ECS moves tasks between zones outside deployments. The lame duck covers these stops, too.
   * @default where the maximum allows it
   */
  readonly rebalancesZones?: boolean;
  /** @default one that lets nobody in: `service.connections.allowFrom(caller, ec2.Port.tcp(port))` */
  readonly securityGroup?: ec2.ISecurityGroup;
  /** @default the VPC's private subnets, or its public ones with `assignPublicIp` */
  readonly subnets?: ec2.SubnetSelection;
  /** Whether tasks get public addresses: what a public subnet without NAT needs to pull images. @default false */
  readonly assignPublicIp?: boolean;

  /**
   * Why what would be refused is wanted all the same. It is then a warning of the synth. For experiments: with this, requests
   * fail during deployments.
   */
  readonly unsafe?: string;
}

/**
 * A service whose records, drain and stop timeout fit together. What does not fit is an error at synth, with the arithmetic.
 */
export class LameDuckService extends Construct implements ec2.IConnectable {
  /** The ECS service. */
  readonly service: ecs.FargateService;
  /** Task definition, container and log group. */
  readonly task: LameDuckTask;
  /** How the stop timeout is divided. */
  readonly budget: StopBudget;
  /** The name by which callers find the tasks. */
  readonly dnsName: string;
  /** Who may call. */
  readonly connections: ec2.Connections;

  /** @throws Error with what does not fit, and what to change. */
  constructor(scope: Construct, id: string, props: LameDuckServiceProps) {
    super(scope, id);
    const { namespace, unsafe, minHealthyPercent = 100, maxHealthyPercent = 200 } = props;
    const isStopTimeoutDefault = props.stopTimeout === "ecs-default";
    const ttl = props.ttl ?? Duration.seconds(30);
    const seconds = (name: string, duration: Duration) => {
      if (!Token.isUnresolved(duration.toSeconds({ integral: false }))) return duration.toSeconds({ integral: false });
      throw new Error(
        `${this.node.path}: ${name} is not known before the deployment (a CloudFormation parameter, say), so nobody could ` +
          "tell whether the stop fits in the stop timeout: give a number, for example from the CDK's context.",
      );
    };
    const optional = (name: string, duration?: Duration) => (duration ? { [name]: seconds(name, duration) } : {});

    const { budget, violations: overspent } = divide({
      ttl: seconds("ttl", ttl),
      dnsMargin: seconds("dnsMargin", props.dnsMargin ?? Duration.seconds(5)),
      inFlight: seconds("inFlight", props.inFlight ?? Duration.seconds(20)),
      exitMargin: seconds("exitMargin", props.exitMargin ?? Duration.seconds(5)),
      ...optional("drain", props.drain),
      ...(props.stopTimeout === "ecs-default" ? { stopTimeout: ECS_DEFAULT } : optional("stopTimeout", props.stopTimeout)),
    });
    const violations = overspent.map((text): [rule: string, text: string] => ["stop-budget", text]);
    const violate = (rule: string, text: string) => violations.push([rule, text]);
    if (ttl.toSeconds({ integral: false }) === 0) {
      violate("ttl", "A TTL of 0s has every call ask DNS: give at least 1s.");
    }
    if (!Token.isUnresolved(namespace.namespaceName) && /(^|\.)local$/i.test(namespace.namespaceName)) {
      violate(
        "namespace",
        `The namespace ${namespace.namespaceName} ends in .local, which is multicast DNS (RFC 6762): some resolvers do not ` +
          "the VPC's DNS for it. Give another name, such as example.internal.",
      );
    }
    if (minHealthyPercent < 100) {
      violate(
        "minimum-healthy",
        `A minimum healthy percent of ${minHealthyPercent} has a deployment take ${100 - minHealthyPercent} % of the tasks out ` +
          "of DNS before their successors are there, and answers from that time name only tasks that end next. Give 100.",
      );
    }
    if (maxHealthyPercent <= minHealthyPercent) {
      violate(
        "maximum",
        `A maximum percent of ${maxHealthyPercent} and a minimum healthy percent of ${minHealthyPercent} leave no room to ` +
          `start a task before one stops: a deployment would hang. Give a maximum of more than ${minHealthyPercent}.`,
      );
    }
    for (const [rule, violation] of violations) refuse(this, rule, violation, unsafe);
    this.budget = budget;
    this.dnsName = `${props.name}.${namespace.namespaceName}`;

    this.task = new LameDuckTask(this, "Task", { ...props, budget, isStopTimeoutDefault });
    const securityGroup =
      props.securityGroup ??
      new ec2.SecurityGroup(this, "SecurityGroup", { vpc: props.cluster.vpc, description: `Tasks of ${props.name}` });
    const { assignPublicIp = false } = props;
    const vpcSubnets = props.subnets ?? (assignPublicIp ? { subnetType: ec2.SubnetType.PUBLIC } : {});
    this.service = new ecs.FargateService(this, "Service", {
      cluster: props.cluster,
      taskDefinition: this.task.definition,
      desiredCount: props.desiredCount ?? 2,
      // Both said: the CDK's 50 halves what DNS names during a deployment.
      minHealthyPercent,
      maxHealthyPercent,
      ...((props.circuitBreaker ?? true) ? { circuitBreaker: { enable: true, rollback: true } } : {}),
      ...deploymentAlarms(props.deploymentAlarms),
      availabilityZoneRebalancing:
        (props.rebalancesZones ?? maxHealthyPercent > 100)
          ? ecs.AvailabilityZoneRebalancing.ENABLED
          : ecs.AvailabilityZoneRebalancing.DISABLED,
      securityGroups: [securityGroup],
      assignPublicIp,
      vpcSubnets,
      cloudMapOptions: {
        cloudMapNamespace: namespace,
        name: props.name,
        dnsRecordType: servicediscovery.DnsRecordType.A,
        dnsTtl: ttl,
      },
      // There is no shell in an image from scratch, and the session would need a file system that can be written to.
      enableExecuteCommand: false,
      enableECSManagedTags: true,
      propagateTags: ecs.PropagatedTagSource.SERVICE,
    });
    // A task that starts before its roles have their policies, or its subnet a way out, fails; a few of them, and the circuit
    // breaker ends the very first deployment. Nothing of the CDK's own orders these.
    const { internetConnectivityEstablished } = props.cluster.vpc.selectSubnets(vpcSubnets);
    this.service.node.addDependency(this.task.permissions, internetConnectivityEstablished);
    this.connections = this.service.connections;
  }
}

/** The deployment alarms as a service wants them. */
export function deploymentAlarms(alarms: cloudwatch.IAlarm[] = []): Pick<ecs.FargateServiceProps, "deploymentAlarms"> {
  if (alarms.length === 0) return {};
  const alarmNames = alarms.map((alarm) => alarm.alarmName);
  return { deploymentAlarms: { alarmNames, behavior: ecs.AlarmBehavior.ROLLBACK_ON_ALARM } };
}
