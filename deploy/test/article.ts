/**
 * What the article deployed, and where our profile `article` differs from it, with the reason.
 *
 * Source: https://github.com/cm-nishida-masayuki/fargate-service-discovery-example at commit dd98e101 (2023-03-06), its
 * lib/fargate-service-discovery-example-stack.ts, synthesised with the versions of its package.json (aws-cdk-lib 2.58.1).
 * The repository has no licence: these are facts about the template, and neither its text nor its code. References, generated
 * names and tags are left out; of the VPC's plumbing only the numbers count.
 */
export const ARTICLE: Record<string, unknown> = {
  "count: AWS::EC2::VPC": 1,
  "count: AWS::EC2::Subnet": 2,
  "count: AWS::EC2::RouteTable": 2,
  "count: AWS::EC2::SubnetRouteTableAssociation": 2,
  "count: AWS::EC2::Route": 2,
  "count: AWS::EC2::InternetGateway": 1,
  "count: AWS::EC2::VPCGatewayAttachment": 1,
  "count: AWS::ServiceDiscovery::PrivateDnsNamespace": 1,
  "count: AWS::EC2::SecurityGroup": 3,
  "count: AWS::EC2::SecurityGroupIngress": 2,
  "count: AWS::IAM::Role": 4,
  "count: AWS::IAM::Policy": 3,
  "count: AWS::ECS::TaskDefinition": 2,
  "count: AWS::Logs::LogGroup": 2,
  "count: AWS::ECS::Cluster": 2,
  "count: AWS::ECS::Service": 2,
  "count: AWS::ServiceDiscovery::Service": 1,
  "count: AWS::ElasticLoadBalancingV2::LoadBalancer": 1,
  "count: AWS::ElasticLoadBalancingV2::Listener": 1,
  "count: AWS::ElasticLoadBalancingV2::TargetGroup": 1,
  "VPC: CidrBlock": "10.0.0.0/16",
  "VPC: EnableDnsHostnames": true,
  "VPC: EnableDnsSupport": true,
  "VPC: InstanceTenancy": "default",
  "namespace: Name": "local",
  "record: DnsConfig.DnsRecords.TTL": 30,
  "record: DnsConfig.DnsRecords.Type": "A",
  "record: DnsConfig.RoutingPolicy": "MULTIVALUE",
  "record: HealthCheckCustomConfig.FailureThreshold": 1,
  "record: Name": "fsde-back",
  "back service: DeploymentConfiguration.MaximumPercent": 200,
  "back service: DeploymentConfiguration.MinimumHealthyPercent": 50,
  "back service: DesiredCount": 4,
  "back service: EnableECSManagedTags": false,
  "back service: EnableExecuteCommand": true,
  "back service: LaunchType": "FARGATE",
  "back service: NetworkConfiguration.AwsvpcConfiguration.AssignPublicIp": "ENABLED",
  "front service: DeploymentConfiguration.MaximumPercent": 200,
  "front service: DeploymentConfiguration.MinimumHealthyPercent": 50,
  "front service: DesiredCount": 1,
  "front service: EnableECSManagedTags": false,
  "front service: HealthCheckGracePeriodSeconds": 60,
  "front service: LaunchType": "FARGATE",
  "front service: LoadBalancers.ContainerName": "frontContainer",
  "front service: LoadBalancers.ContainerPort": 1234,
  "front service: NetworkConfiguration.AwsvpcConfiguration.AssignPublicIp": "ENABLED",
  "back task: ContainerDefinitions.Essential": true,
  "back task: ContainerDefinitions.HealthCheck.Command": "CMD-SHELL curl -f http://localhost:1235 || exit 1",
  "back task: ContainerDefinitions.HealthCheck.Interval": 30,
  "back task: ContainerDefinitions.HealthCheck.Retries": 2,
  "back task: ContainerDefinitions.HealthCheck.StartPeriod": 5,
  "back task: ContainerDefinitions.HealthCheck.Timeout": 15,
  "back task: ContainerDefinitions.LogConfiguration.LogDriver": "awslogs",
  "back task: ContainerDefinitions.LogConfiguration.Options.awslogs-stream-prefix": "ecs-fsde-back",
  "back task: ContainerDefinitions.Name": "BackendContainer",
  "back task: ContainerDefinitions.PortMappings.ContainerPort": 1235,
  "back task: ContainerDefinitions.PortMappings.HostPort": 1235,
  "back task: ContainerDefinitions.PortMappings.Protocol": "tcp",
  "back task: Cpu": "256",
  "back task: Memory": "512",
  "back task: NetworkMode": "awsvpc",
  "back task: RequiresCompatibilities": "FARGATE",
  "back task: RuntimePlatform.CpuArchitecture": "ARM64",
  "front task: ContainerDefinitions.Essential": true,
  "front task: ContainerDefinitions.LogConfiguration.LogDriver": "awslogs",
  "front task: ContainerDefinitions.LogConfiguration.Options.awslogs-stream-prefix": "ecs-fsde-front",
  "front task: ContainerDefinitions.Name": "frontContainer",
  "front task: ContainerDefinitions.PortMappings.ContainerPort": 1234,
  "front task: ContainerDefinitions.PortMappings.HostPort": 1234,
  "front task: ContainerDefinitions.PortMappings.Protocol": "tcp",
  "front task: Cpu": "256",
  "front task: Memory": "512",
  "front task: NetworkMode": "awsvpc",
  "front task: RequiresCompatibilities": "FARGATE",
  "load balancer: LoadBalancerAttributes.deletion_protection.enabled": "false",
  "load balancer: Scheme": "internet-facing",
  "load balancer: Type": "application",
  "listener: DefaultActions.Type": "forward",
  "listener: Port": 80,
  "listener: Protocol": "HTTP",
  "targets: HealthCheckPath": "/health",
  "targets: Matcher.HttpCode": "200",
  "targets: Port": 1234,
  "targets: Protocol": "HTTP",
  "targets: TargetGroupAttributes.stickiness.enabled": "false",
  "targets: TargetType": "ip",
  "back log: RetentionInDays": 30,
  "front log: RetentionInDays": 30,
  "ingress: load balancer": ["tcp 0.0.0.0/0 80"],
  "ingress: front": ["tcp load balancer 1234"],
  "ingress: back": ["tcp front 1235"],
  "egress: load balancer": ["all"],
  "egress: front": ["all"],
  "egress: back": ["all"],
};

/** Why a fact is another one with us; `undefined` is a property that is not there. */
interface Difference {
  readonly ours: Record<string, unknown>;
  readonly why: string;
}

const CONTAINER = "ContainerDefinitions";

/** Of both task definitions. */
const both = (path: string, ours: unknown) => ({ [`back task: ${path}`]: ours, [`front task: ${path}`]: ours });

/** Of both services. */
const services = (path: string, ours: unknown) => ({ [`back service: ${path}`]: ours, [`front service: ${path}`]: ours });

/** The differences of the article's last setting: TTL 30 s, drain 30 s. */
export const DIFFERENCES: Difference[] = [
  {
    ours: { "namespace: Name": "lameduck.internal" },
    why: "A Go program with cgo gives names in .local to libc; front asks the VPC's DNS for any name, so it would see no difference. Nobody should copy the name.",
  },
  {
    ours: { "count: AWS::ECS::Cluster": 1 },
    why: "A cluster is a name. Which one a task is in has no part in what is observed.",
  },
  {
    ours: { "count: AWS::IAM::Policy": 2, "back service: EnableExecuteCommand": false, "front service: EnableExecuteCommand": false },
    why: "There is no shell in our images to be executed, so the task role needs no permission for a session.",
  },
  {
    ours: {
      "count: AWS::EC2::SecurityGroupEgress": 2,
      "egress: load balancer": ["tcp front 1234"],
      "egress: front": ["tcp 0.0.0.0/0 443", "tcp back 1235"],
      "egress: back": ["tcp 0.0.0.0/0 443"],
    },
    why: "What is let out is what is needed, in both profiles. Requests, DNS, images and logs pass as before.",
  },
  {
    ours: { "ingress: load balancer": ["tcp CallerCidr 80"] },
    why: "Who may call is a parameter: back can be broken by GET /error in this profile. 0.0.0.0/0 is the article's.",
  },
  {
    ours: { "count: AWS::CloudWatch::Dashboard": 1, "count: AWS::Logs::QueryDefinition": Number.NaN },
    why: "What is observed is looked at with these; the article did so by hand.",
  },
  {
    ours: { ...services("EnableECSManagedTags", true), ...services("PropagateTags", "SERVICE") },
    why: "The bill can then be read by service. Tags have no part in what is observed.",
  },
  {
    ours: services("AvailabilityZoneRebalancing", "DISABLED"),
    why: "ECS had none in 2023. Enabled, it would stop tasks in the middle of an observation.",
  },
  {
    ours: {
      ...services("DeploymentConfiguration.Alarms.AlarmNames", ""),
      ...services("DeploymentConfiguration.Alarms.Enable", false),
      ...services("DeploymentConfiguration.Alarms.Rollback", false),
    },
    why: "The CDK of today says that there are none; that of the article left it out.",
  },
  {
    ours: { ...both(`${CONTAINER}.Name`, "app"), "front service: LoadBalancers.ContainerName": "app" },
    why: "A name.",
  },
  {
    ours: both(`${CONTAINER}.LogConfiguration.Options.awslogs-stream-prefix`, "task"),
    why: "A name: each container has a log group of its own.",
  },
  {
    ours: both(`${CONTAINER}.LogConfiguration.Options.mode`, "non-blocking"),
    why: "CloudWatch must not be able to stop a task from serving.",
  },
  {
    ours: both(`${CONTAINER}.PortMappings.HostPort`, undefined),
    why: "In awsvpc mode it is the container's port, said or not.",
  },
  {
    ours: { [`back task: ${CONTAINER}.HealthCheck.Command`]: "CMD /init --check http://127.0.0.1:1235/" },
    why: "Our image has no curl and no shell. The path, the times and the number of failures are the article's.",
  },
  {
    ours: {
      [`front task: ${CONTAINER}.HealthCheck.Command`]: "CMD /init --check http://127.0.0.1:1234/health",
      [`front task: ${CONTAINER}.HealthCheck.Interval`]: 10,
      [`front task: ${CONTAINER}.HealthCheck.Retries`]: 3,
      [`front task: ${CONTAINER}.HealthCheck.StartPeriod`]: 10,
      [`front task: ${CONTAINER}.HealthCheck.Timeout`]: 5,
    },
    why: "The article's front has none and leaves it to the load balancer, which asks the same path here, too. front is not deployed in the experiments.",
  },
  {
    ours: {
      ...both(`${CONTAINER}.ReadonlyRootFilesystem`, true),
      ...both(`${CONTAINER}.User`, "65532:65532"),
      ...both(`${CONTAINER}.LinuxParameters.Capabilities.Drop`, "ALL"),
    },
    why: "No experiment needs a task that may more.",
  },
  {
    ours: both("RuntimePlatform.OperatingSystemFamily", "LINUX"),
    why: "The default, said.",
  },
  {
    ours: { "front task: RuntimePlatform.CpuArchitecture": "X86_64" },
    why: "The default, said: the article's front is on x86, too.",
  },
  {
    ours: { [`back task: ${CONTAINER}.Environment.INIT_DRAIN`]: "30s", [`back task: ${CONTAINER}.Environment.INIT_GRACE`]: "0s" },
    why: "The sleep of the article's entrypoint.sh, which leaves nothing of ECS's 30 s. Without a drain they are 0s and 30s.",
  },
  {
    ours: {
      [`back task: ${CONTAINER}.Environment.BACK_DRAIN_TIMEOUT`]: "0s",
      [`back task: ${CONTAINER}.Environment.BACK_ENABLE_FAULTS`]: "true",
      [`back task: ${CONTAINER}.Environment.BACK_REVISION`]: "Revision",
    },
    why: "The article's back ends at once on SIGTERM, has GET /error, and a revision in its code.",
  },
  {
    ours: { [`front task: ${CONTAINER}.Environment.INIT_DRAIN`]: "0s", [`front task: ${CONTAINER}.Environment.INIT_GRACE`]: "30s" },
    why: "The article's front has no entrypoint script.",
  },
  {
    ours: {
      [`front task: ${CONTAINER}.Environment.FRONT_BACKEND`]: "http://fsde-back.lameduck.internal:1235",
      [`front task: ${CONTAINER}.Environment.FRONT_CALLER_IDLE_TIMEOUT`]: "75s",
      [`front task: ${CONTAINER}.Environment.FRONT_DRAIN_TIMEOUT`]: "20s",
    },
    why: "What the article's front has in its code, as far as it has it.",
  },
  {
    ours: {
      [`front task: ${CONTAINER}.Environment.FRONT_DNS_MAX_TTL`]: "5m",
      [`front task: ${CONTAINER}.Environment.FRONT_SET_ASIDE`]: "0s",
      [`front task: ${CONTAINER}.Environment.FRONT_WAIT_FOR_TASK`]: "0s",
    },
    why: "To be like the article's front: Go tries every address of the answer that the resolver still has, remembers nothing, and waits for no other answer.",
  },
];
