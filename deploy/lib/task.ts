/** One container under `init` on Fargate: the task definition that services with and without a DNS name share. */

import { Annotations, Aws, Duration, RemovalPolicy } from "aws-cdk-lib";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as iam from "aws-cdk-lib/aws-iam";
import * as logs from "aws-cdk-lib/aws-logs";
import { Construct, type IDependable } from "constructs";
import type { StopBudget } from "./stop-budget";

/** nobody's own number in the images of this repository, and in those of distroless. */
export const NOBODY = "65532:65532";

/** What the environment may not say, because the stop budget does. */
const BUDGETED = ["INIT_DRAIN", "INIT_GRACE", "INIT_STOP_TIMEOUT", "INIT_DNS_NAME"];

/** What a task is. */
export interface LameDuckTaskProps {
  /** An image that has `/init`. Its ENTRYPOINT is `["/init", "--"]`, unless there is a `command`. */
  readonly image: ecs.ContainerImage;
  /**
   * What `init` runs, where the image's ENTRYPOINT is not `init`. ECS then ignores the image's CMD, so it is all of the
   * command line.
   */
  readonly command?: string[];
  /** Where the application listens. */
  readonly port: number;
  /** The division of the stop timeout. */
  readonly budget: StopBudget;
  /** Whether the task definition leaves `stopTimeout` to ECS, which then waits 30 s. `init` is told nothing, and assumes that. */
  readonly isStopTimeoutDefault?: boolean;
  /** Further environment variables. Those of the stop budget are refused. */
  readonly environment?: Record<string, string>;
  /** What the container health check asks for. @default "/health" */
  readonly healthPath?: string;
  /** The health check's times. @default every 10 s, 5 s to answer, unhealthy after 3 failures, none counts in the first 10 s */
  readonly health?: Omit<ecs.HealthCheck, "command">;
  /**
   * Sent to the application as the lame duck begins, so that it can answer `Connection: close`. One that does not know the signal
   * may die of it.
   */
  readonly drainSignal?: string;
  /**
   * Whether `init` asks the health check's URL before it drains, and does without a drain if the application is ill.
   * @default true
   */
  readonly drainsOnlyIfHealthy?: boolean;
  /** CPU units. @default 256 */
  readonly cpu?: number;
  /** MiB. @default 512 */
  readonly memoryLimitMiB?: number;
  /** @default ARM64, which costs a fifth less */
  readonly architecture?: ecs.CpuArchitecture;
  /** `UID:GID`, not 0. @default 65532:65532 */
  readonly user?: string;
  /** Whether the application may write to its own file system. @default false */
  readonly writesToRoot?: boolean;
  /** @default one month */
  readonly logRetention?: logs.RetentionDays;
}

/** A task definition with one container, its log group, and roles that may do no more than they need. */
export class LameDuckTask extends Construct {
  /** The task definition. */
  readonly definition: ecs.FargateTaskDefinition;
  /** The container. */
  readonly container: ecs.ContainerDefinition;
  /** Where it logs. */
  readonly logGroup: logs.LogGroup;
  /** What has to be there before the first task can start: the definition names the role, but nobody its policy. */
  readonly permissions: IDependable;

  /** @throws Error if the environment says what the stop budget says, or the user is root. */
  constructor(scope: Construct, id: string, props: LameDuckTaskProps) {
    super(scope, id);
    const { budget, port, user = NOBODY, environment = {} } = props;
    for (const name of BUDGETED.filter((name) => name in environment)) {
      throw new Error(
        `${this.node.path}: the environment has ${name}=${environment[name]}, which would contradict the stop budget ` +
          `(drain ${budget.drain}s, grace ${budget.grace}s, stop timeout ${budget.stopTimeout}s): set ttl, dnsMargin, drain, ` +
          "inFlight or stopTimeout of the construct.",
      );
    }
    if (/^(0|root)(:|$)/.test(user)) {
      throw new Error(`${this.node.path}: user ${user} is root: give another one, such as ${NOBODY}.`);
    }

    this.logGroup = new logs.LogGroup(this, "Log", {
      retention: props.logRetention ?? logs.RetentionDays.ONE_MONTH,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    const starts = "What ECS may do to start the task: pull from ECR, if need be, and write logs";
    const executionRole = role(this, "ExecutionRole", starts);
    this.permissions = executionRole;
    this.definition = new ecs.FargateTaskDefinition(this, "Definition", {
      cpu: props.cpu ?? 256,
      memoryLimitMiB: props.memoryLimitMiB ?? 512,
      runtimePlatform: {
        cpuArchitecture: props.architecture ?? ecs.CpuArchitecture.ARM64,
        operatingSystemFamily: ecs.OperatingSystemFamily.LINUX,
      },
      // Without a policy: neither init nor what it runs here calls AWS. Others add theirs to `definition.taskRole`.
      taskRole: role(this, "TaskRole", "What the application may do"),
      executionRole,
    });
    const url = `http://127.0.0.1:${port}${props.healthPath ?? "/health"}`;
    this.container = this.definition.addContainer("app", {
      image: props.image,
      ...(props.command === undefined ? {} : { entryPoint: ["/init", "--"], command: props.command }),
      portMappings: [{ containerPort: port }],
      user,
      readonlyRootFilesystem: !(props.writesToRoot ?? false),
      // Nobody has no capability to lose, but a program with file capabilities could win some.
      linuxParameters: new ecs.LinuxParameters(this, "Linux", {}),
      ...(props.isStopTimeoutDefault ? {} : { stopTimeout: Duration.seconds(budget.stopTimeout) }),
      environment: {
        INIT_DRAIN: `${budget.drain}s`,
        INIT_GRACE: `${budget.grace}s`,
        ...(props.isStopTimeoutDefault ? {} : { INIT_STOP_TIMEOUT: `${budget.stopTimeout}s` }),
        ...(props.drainSignal === undefined ? {} : { INIT_DRAIN_SIGNAL: props.drainSignal }),
        ...((props.drainsOnlyIfHealthy ?? true) && budget.drain > 0 ? { INIT_HEALTH_URL: url } : {}),
        ...environment,
      },
      // No shell, and no curl: the images are from scratch.
      healthCheck: {
        interval: Duration.seconds(10),
        timeout: Duration.seconds(5),
        retries: 3,
        startPeriod: Duration.seconds(10),
        ...props.health,
        command: ["CMD", "/init", "--check", url],
      },
      // A log that is not taken (CloudWatch is away, or throttles) must not stop the task from serving.
      logging: ecs.LogDrivers.awsLogs({
        streamPrefix: "task",
        logGroup: this.logGroup,
        mode: ecs.AwsLogDriverMode.NON_BLOCKING,
      }),
    });
    this.container.linuxParameters?.dropCapabilities(ecs.Capability.ALL);
  }
}

/** A role for tasks of this account, and for nobody who gets ECS to take it for another (the confused deputy). */
function role(scope: Construct, id: string, description: string): iam.Role {
  return new iam.Role(scope, id, {
    description,
    assumedBy: new iam.ServicePrincipal("ecs-tasks.amazonaws.com", {
      conditions: {
        StringEquals: { "aws:SourceAccount": Aws.ACCOUNT_ID },
        ArnLike: { "aws:SourceArn": `arn:${Aws.PARTITION}:ecs:${Aws.REGION}:${Aws.ACCOUNT_ID}:*` },
      },
    }),
  });
}

/**
 * What is wrong, as an error; or as a warning, where somebody said why they want it all the same. `rule` is the name by which
 * the warning can be acknowledged.
 */
export function refuse(scope: Construct, rule: string, violation: string, unsafe: string | undefined): void {
  if (unsafe === undefined) throw new Error(`${scope.node.path}: ${violation}`);
  Annotations.of(scope).addWarningV2(`lameduck:${rule}`, `${violation} (Allowed: ${unsafe})`);
}
