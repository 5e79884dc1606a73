/** The article's system, front and back on Fargate, with our images: as it should be, or as it was. */

import { BootstraplessSynthesizer, CfnOutput, CfnParameter, CfnResource, Duration, Stack } from "aws-cdk-lib";
import * as cloudwatch from "aws-cdk-lib/aws-cloudwatch";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecr from "aws-cdk-lib/aws-ecr";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as elb from "aws-cdk-lib/aws-elasticloadbalancingv2";
import * as logs from "aws-cdk-lib/aws-logs";
import * as servicediscovery from "aws-cdk-lib/aws-servicediscovery";
import type { Construct, IConstruct } from "constructs";
import { deploymentAlarms, LameDuckService } from "./lame-duck-service";
import { Network } from "./network";
import { queries } from "./queries";
import type { Settings } from "./settings";
import { divide, ECS_DEFAULT, stopBudget } from "./stop-budget";
import { LameDuckTask } from "./task";

/** Where back listens, and where front does. */
const BACK_PORT = 1235;
const FRONT_PORT = 1234;

/** How long the load balancer keeps an idle connection, in seconds. It is its default, said because of the next one. */
const BALANCER_IDLE = 60;

/** How long front keeps one. Longer, so that it is the load balancer that closes it: it never uses one that front is closing. */
const FRONT_IDLE = 75;

/**
 * How long an answer that there is no such name may be kept, in seconds. Before the first task is registered there is none, and
 * with Route 53's own figure callers would believe so for minutes after.
 */
const NEGATIVE_TTL = 15;

/** Why the article's settings are let through. */
const ARTICLE = "the article's setting, to see what it saw";

/**
 * From how many answers of 5xx in a minute a deployment is taken back. At the article's load, 600 a minute, it is not one in a
 * hundred.
 */
const FAILURES = 5;

/**
 * The queries that are on the dashboard, as the article's charts were: the others are for when something is wrong. Each look at
 * the dashboard is charged for what they read.
 */
const ON_DASHBOARD = ["distribution", "drains-by-task", "failures-by-cause", "failures-over-time", "handover"];

/** One stack: VPC, namespace, back, front, load balancer, alarms, dashboard. */
export class LameduckStack extends Stack {
  constructor(scope: Construct, id: string, settings: Settings) {
    super(scope, id, {
      description: `Lameduck, profile ${settings.profile}: front and four tasks of back behind a DNS name`,
      // There is nothing to upload: it can be deployed to an account that the CDK was never prepared in, and as it is.
      synthesizer: new BootstraplessSynthesizer(),
    });
    const isArticle = settings.profile === "article";
    const callers = new CfnParameter(this, "CallerCidr", {
      description:
        "Who may call the load balancer, such as 203.0.113.7/32. 0.0.0.0/0 is everybody: back's faults, if they are on, included",
      allowedPattern: "^\\d{1,3}(\\.\\d{1,3}){3}/\\d{1,2}$",
      constraintDescription: "expected an IPv4 network such as 203.0.113.7/32",
    });
    const revision = new CfnParameter(this, "Revision", {
      description: "What back's answers and logs call this revision. Another value is a deployment of back",
      default: "1",
      allowedPattern: "^[!-~]{1,64}$",
      constraintDescription: "expected 1 to 64 visible ASCII characters",
    });

    const network = new Network(this, "Network", settings);
    const { vpc } = network;
    const cluster = new ecs.Cluster(this, "Cluster", { vpc });
    const namespace = new servicediscovery.PrivateDnsNamespace(this, "Namespace", { name: "lameduck.internal", vpc });
    if (!isArticle) {
      const resource = namespace.node.defaultChild as servicediscovery.CfnPrivateDnsNamespace;
      resource.properties = { dnsProperties: { soa: { ttl: NEGATIVE_TTL } } };
    }

    const securityGroup = (name: string, description: string) =>
      new ec2.SecurityGroup(this, name, { vpc, description, allowAllOutbound: false });
    const balancerGroup = securityGroup("BalancerSecurityGroup", "The load balancer: from callers, to front");
    const frontGroup = securityGroup("FrontSecurityGroup", "front: from the load balancer, to back");
    const backGroup = securityGroup("BackSecurityGroup", "back: from front");
    balancerGroup.addIngressRule(
      ec2.Peer.ipv4(callers.valueAsString),
      ec2.Port.tcp(settings.certificate === undefined ? 80 : 443),
      "Callers",
    );
    balancerGroup.connections.allowTo(frontGroup, ec2.Port.tcp(FRONT_PORT), "Load balancer to front");
    frontGroup.connections.allowTo(backGroup, ec2.Port.tcp(BACK_PORT), "front to back");
    for (const group of [frontGroup, backGroup]) {
      // DNS and the task metadata are not subject to security groups.
      group.addEgressRule(ec2.Peer.anyIpv4(), ec2.Port.tcp(443), "Images and logs");
    }

    const { balancer, targets } = this.loadBalancer(settings, vpc, balancerGroup);
    const alarms = isArticle ? undefined : this.alarms(balancer, targets);

    const back = new LameDuckService(this, "Back", {
      cluster,
      namespace,
      name: "fsde-back",
      image: this.image("Back", settings),
      port: BACK_PORT,
      ttl: Duration.seconds(settings.ttl),
      inFlight: Duration.seconds(settings.inFlight),
      desiredCount: 4,
      environment: {
        BACK_REVISION: revision.valueAsString,
        // The article's back has no handler for SIGTERM: it ends at once.
        BACK_DRAIN_TIMEOUT: isArticle ? "0s" : `${settings.inFlight}s`,
        BACK_ENABLE_FAULTS: String(settings.faults),
      },
      securityGroup: backGroup,
      subnets: network.subnets,
      assignPublicIp: network.assignPublicIp,
      ...(settings.drain === undefined ? {} : { drain: Duration.seconds(settings.drain) }),
      ...(isArticle
        ? {
            unsafe: ARTICLE,
            stopTimeout: "ecs-default",
            minHealthyPercent: 50,
            circuitBreaker: false,
            rebalancesZones: false,
            drainsOnlyIfHealthy: false,
            healthPath: "/",
            health: {
              interval: Duration.seconds(30),
              timeout: Duration.seconds(15),
              retries: 2,
              startPeriod: Duration.seconds(5),
            },
          }
        : {
            // back answers with Connection: close from then on, so that front's pool empties itself.
            drainSignal: "USR1",
            deploymentAlarms: alarms ? [alarms.failures] : [],
          }),
    });

    // Nobody finds front by a name of Cloud Map. The margin is for load balancers that have not yet heard.
    const frontTimes = { ttl: 0, dnsMargin: 5, inFlight: 20, exitMargin: 5 };
    const frontTask = new LameDuckTask(this, "FrontTask", {
      image: this.image("Front", settings),
      port: FRONT_PORT,
      ...(isArticle
        ? {
            budget: divide({ ...frontTimes, drain: 0, stopTimeout: ECS_DEFAULT }).budget,
            isStopTimeoutDefault: true,
            architecture: ecs.CpuArchitecture.X86_64,
          }
        : { budget: stopBudget(frontTimes), drainSignal: "USR1" }),
      environment: {
        FRONT_BACKEND: `http://${back.dnsName}:${BACK_PORT}`,
        FRONT_CALLER_IDLE_TIMEOUT: `${FRONT_IDLE}s`,
        FRONT_DRAIN_TIMEOUT: `${frontTimes.inFlight}s`,
        // The article's front is Go: it tries all addresses of the answer that its resolver still has, and that is all.
        ...(isArticle ? { FRONT_DNS_MAX_TTL: "5m", FRONT_SET_ASIDE: "0s", FRONT_WAIT_FOR_TASK: "0s" } : {}),
      },
    });
    const front = new ecs.FargateService(this, "FrontService", {
      cluster,
      taskDefinition: frontTask.definition,
      desiredCount: isArticle ? 1 : 2,
      minHealthyPercent: isArticle ? 50 : 100,
      maxHealthyPercent: 200,
      healthCheckGracePeriod: Duration.seconds(60),
      ...(isArticle ? {} : { circuitBreaker: { enable: true, rollback: true } }),
      ...deploymentAlarms(alarms && [alarms.failures, alarms.balancerFailures, alarms.unhealthy]),
      availabilityZoneRebalancing: isArticle
        ? ecs.AvailabilityZoneRebalancing.DISABLED
        : ecs.AvailabilityZoneRebalancing.ENABLED,
      securityGroups: [frontGroup],
      vpcSubnets: network.subnets,
      assignPublicIp: network.assignPublicIp,
      enableExecuteCommand: false,
      enableECSManagedTags: true,
      propagateTags: ecs.PropagatedTagSource.SERVICE,
    });
    front.attachToApplicationTargetGroup(targets);
    back.service.node.addDependency(network.ways);
    // One after the other: what goes wrong during a deployment is then the doing of one of them.
    front.node.addDependency(frontTask.permissions, back.service);

    this.views(balancer, targets, { back: back.service, front }, { back: back.task.logGroup, front: frontTask.logGroup });
    exceptions(settings, cluster, balancer, [back.task.logGroup, frontTask.logGroup]);

    const scheme = settings.certificate === undefined ? "http" : "https";
    const outputs = {
      Url: [`${scheme}://${balancer.loadBalancerDnsName}/`, "What to call"],
      Host: [balancer.loadBalancerDnsName, "HOST of the k6 scenario"],
      ClusterName: [cluster.clusterName, "The cluster of both services"],
      BackServiceName: [back.service.serviceName, "The service whose deployments are watched"],
      BackDnsName: [back.dnsName, "The name by which front finds back"],
      HostedZoneId: [namespace.namespaceHostedZoneId, "Where Cloud Map writes back's records"],
      FrontLogGroup: [frontTask.logGroup.logGroupName, "One line for each request, with task_id, status and cause"],
      BackLogGroup: [back.task.logGroup.logGroupName, "Requests, and what init does when a task is stopped"],
    };
    for (const [name, [value, description]] of Object.entries(outputs)) {
      new CfnOutput(this, name, { value: value ?? "", description: description ?? "" });
    }
  }

  /** The image of `name`: any URI, or a tag of the ECR repository, which the task may then pull from. */
  private image(name: "Back" | "Front", settings: Settings): ecs.ContainerImage {
    const program = name.toLowerCase();
    if (settings.ecr === undefined) {
      const uri = new CfnParameter(this, `${name}Image`, {
        description:
          `${program}'s image: REGISTRY/${program}:VERSION, or better @sha256:DIGEST, of a registry that needs no login`,
        allowedPattern: "^[^\\s@]+(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})$",
        constraintDescription: "expected an image with a tag or a digest, such as ghcr.io/OWNER/REPOSITORY/back:1.0.0",
      });
      return ecs.ContainerImage.fromRegistry(uri.valueAsString);
    }
    const tag = new CfnParameter(this, `${name}Tag`, {
      description: `The tag, or sha256:DIGEST, in the repository ${settings.ecr}/${program}`,
      allowedPattern: "^(sha256:[0-9a-f]{64}|[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})$",
    });
    const repository = ecr.Repository.fromRepositoryName(this, `${name}Repository`, `${settings.ecr}/${program}`);
    return ecs.ContainerImage.fromEcrRepository(repository, tag.valueAsString);
  }

  private loadBalancer(settings: Settings, vpc: ec2.IVpc, securityGroup: ec2.ISecurityGroup) {
    const isArticle = settings.profile === "article";
    const balancer = new elb.ApplicationLoadBalancer(this, "LoadBalancer", {
      vpc,
      vpcSubnets: { subnetType: ec2.SubnetType.PUBLIC },
      internetFacing: true,
      securityGroup,
      ...(isArticle ? {} : { idleTimeout: Duration.seconds(BALANCER_IDLE), dropInvalidHeaderFields: true }),
    });
    const targets = new elb.ApplicationTargetGroup(this, "Targets", {
      vpc,
      port: FRONT_PORT,
      protocol: elb.ApplicationProtocol.HTTP,
      targetType: elb.TargetType.IP,
      healthCheck: {
        path: "/health",
        healthyHttpCodes: "200",
        ...(isArticle
          ? {}
          : {
              interval: Duration.seconds(10),
              timeout: Duration.seconds(5),
              healthyThresholdCount: 2,
              unhealthyThresholdCount: 2,
            }),
      },
      // Longer than any request takes: front gives up after 10 s. The default, 5 minutes, is added to every deployment.
      ...(isArticle ? {} : { deregistrationDelay: Duration.seconds(30) }),
    });
    if (settings.certificate === undefined) {
      balancer.addListener("Http", { port: 80, open: false, defaultTargetGroups: [targets] });
    } else {
      balancer.addListener("Https", {
        port: 443,
        open: false,
        certificates: [elb.ListenerCertificate.fromArn(settings.certificate)],
        sslPolicy: elb.SslPolicy.RECOMMENDED_TLS,
        defaultTargetGroups: [targets],
      });
    }
    return { balancer, targets };
  }

  /**
   * What takes a deployment back. Without Service Connect the only ones who count failures for CloudWatch are the load balancers;
   * front's own 502, 503 and 504 for a back that cannot be reached are, to them, a target's.
   */
  private alarms(balancer: elb.ApplicationLoadBalancer, targets: elb.ApplicationTargetGroup) {
    const minute = { period: Duration.minutes(1), statistic: "Sum" };
    const alarm = (id: string, metric: cloudwatch.Metric, threshold: number, minutes: number, alarmDescription: string) =>
      new cloudwatch.Alarm(this, id, {
        metric,
        threshold,
        evaluationPeriods: minutes,
        datapointsToAlarm: minutes,
        comparisonOperator: cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
        // A metric of failures has no data while there are none.
        treatMissingData: cloudwatch.TreatMissingData.NOT_BREACHING,
        alarmDescription,
      });
    const { HttpCodeTarget, HttpCodeElb } = elb;
    return {
      failures: alarm(
        "Failures",
        balancer.metrics.httpCodeTarget(HttpCodeTarget.TARGET_5XX_COUNT, minute),
        FAILURES,
        1,
        "front answered 5xx: its own, if back could not be reached, or back's",
      ),
      balancerFailures: alarm(
        "BalancerFailures",
        balancer.metrics.httpCodeElb(HttpCodeElb.ELB_5XX_COUNT, minute),
        FAILURES,
        1,
        "The load balancer could not reach front",
      ),
      unhealthy: alarm(
        "UnhealthyFront",
        targets.metrics.unhealthyHostCount({ period: Duration.minutes(1), statistic: "Maximum" }),
        1,
        2,
        "A task of front fails the load balancer's health check",
      ),
    };
  }

  /** The dashboard and the saved queries: what the walk-through looks at. */
  private views(
    balancer: elb.ApplicationLoadBalancer,
    targets: elb.ApplicationTargetGroup,
    services: { back: ecs.FargateService; front: ecs.FargateService },
    groups: Record<"back" | "front", logs.ILogGroup>,
  ) {
    const minute = { period: Duration.minutes(1) };
    const sum = { ...minute, statistic: "Sum" };
    const { metrics } = balancer;
    const dashboard = new cloudwatch.Dashboard(this, "Dashboard", { defaultInterval: Duration.hours(1) });
    dashboard.addWidgets(
      new cloudwatch.GraphWidget({
        title: "Requests, and those that failed",
        left: [metrics.requestCount({ ...sum, label: "requests" })],
        right: [
          metrics.httpCodeTarget(elb.HttpCodeTarget.TARGET_5XX_COUNT, { ...sum, label: "5xx of front or back" }),
          metrics.httpCodeElb(elb.HttpCodeElb.ELB_5XX_COUNT, { ...sum, label: "5xx of the load balancer" }),
        ],
        width: 12,
      }),
      new cloudwatch.GraphWidget({
        title: "Time to the answer",
        left: ["p50", "p99", "Maximum"].map((statistic) =>
          metrics.targetResponseTime({ ...minute, statistic, label: statistic }),
        ),
        width: 12,
      }),
      new cloudwatch.GraphWidget({
        title: "Tasks of front, as the load balancer sees them",
        left: [
          targets.metrics.healthyHostCount({ ...minute, label: "healthy" }),
          targets.metrics.unhealthyHostCount({ ...minute, label: "unhealthy" }),
        ],
        width: 12,
      }),
      new cloudwatch.GraphWidget({
        title: "CPU and memory of the tasks, per cent",
        left: Object.entries(services).flatMap(([name, service]) => [
          service.metricCpuUtilization({ ...minute, label: `${name} CPU` }),
          service.metricMemoryUtilization({ ...minute, label: `${name} memory` }),
        ]),
        width: 12,
      }),
    );
    for (const query of queries()) {
      const { name, text, commands, title } = query;
      const logGroupNames = query.logs.map((whose) => groups[whose].logGroupName);
      new logs.CfnQueryDefinition(this, `Query-${name}`, { name: `${this.stackName}/${name}`, queryString: text, logGroupNames });
      if (!ON_DASHBOARD.includes(name)) continue;
      const view = cloudwatch.LogQueryVisualizationType.TABLE;
      const size = { width: 12, height: 8 };
      dashboard.addWidgets(new cloudwatch.LogQueryWidget({ title, logGroupNames, queryString: commands, view, ...size }));
    }
  }
}

/** What checkov finds, and why it stays. The reasons are part of the template, for those who read only that. */
function exceptions(
  settings: Settings,
  cluster: ecs.Cluster,
  balancer: elb.ApplicationLoadBalancer,
  groups: logs.LogGroup[],
): void {
  const isArticle = settings.profile === "article";
  const except = (construct: IConstruct, skip: Record<string, string>) => {
    const resource = construct instanceof CfnResource ? construct : (construct.node.defaultChild as CfnResource);
    resource.addMetadata("checkov", { skip: Object.entries(skip).map(([id, comment]) => ({ id, comment })) });
  };
  except(cluster, {
    CKV_AWS_65: "Container Insights is charged by the metric, and nothing here reads it; the account's own setting holds",
  });
  except(balancer, {
    CKV_AWS_91: "Access logs need a bucket that outlives the stack; front logs every request, with the task that answered",
    ...(isArticle
      ? { CKV_AWS_131: "The article's load balancer passes all headers; the profile recommended drops invalid ones" }
      : {}),
  });
  for (const listener of balancer.listeners) {
    if (settings.certificate !== undefined) continue;
    const reason =
      "A certificate needs a domain name: give one with -c certificate=ARN. Without it the callers are those of CallerCidr";
    except(listener, { CKV_AWS_2: reason, CKV_AWS_103: reason });
  }
  for (const group of groups) {
    except(group, { CKV_AWS_158: "CloudWatch encrypts it with a key of its own; there is nothing secret in these lines" });
  }
}
