/** The VPC, and the ways out of it. */

import * as ec2 from "aws-cdk-lib/aws-ec2";
import { Construct, DependencyGroup, type IDependable } from "constructs";
import type { Settings } from "./settings";

/** Two zones, public subnets for the load balancer, and subnets for tasks as `settings.network` says. */
export class Network extends Construct {
  readonly vpc: ec2.Vpc;
  /** Where tasks are. */
  readonly subnets: ec2.SubnetSelection;
  /** Whether tasks need public addresses to get out. */
  readonly assignPublicIp: boolean;
  /** What has to be there before a task can pull its image and log. */
  readonly ways: IDependable;

  constructor(scope: Construct, id: string, { network, profile, ecr }: Settings) {
    super(scope, id);
    const tasks = {
      nat: ec2.SubnetType.PRIVATE_WITH_EGRESS,
      public: ec2.SubnetType.PUBLIC,
      endpoints: ec2.SubnetType.PRIVATE_ISOLATED,
    }[network];
    this.subnets = { subnetType: tasks };
    this.assignPublicIp = network === "public";
    this.vpc = new ec2.Vpc(this, "Vpc", {
      maxAzs: 2,
      // One in each zone: with a single one, the loss of its zone would be everybody's.
      natGateways: network === "nat" ? 2 : 0,
      subnetConfiguration: [
        {
          name: "public",
          subnetType: ec2.SubnetType.PUBLIC,
          cidrMask: 24,
          // Who needs a public address asks for it: the load balancer does, and the service where tasks do.
          mapPublicIpOnLaunch: profile === "article",
        },
        ...(network === "public" ? [] : [{ name: "tasks", subnetType: tasks, cidrMask: 24 }]),
      ],
    });
    const ways = new DependencyGroup(this.vpc.selectSubnets(this.subnets).internetConnectivityEstablished);
    this.ways = ways;
    if (ecr !== undefined && network !== "public") {
      // Layers of images in ECR come from S3. This endpoint costs nothing, and NAT gateways charge for each gigabyte.
      const service = ec2.GatewayVpcEndpointAwsService.S3;
      ways.add(this.vpc.addGatewayEndpoint("S3", { service, subnets: [this.subnets] }));
    }
    if (network === "endpoints") {
      for (const [name, service] of Object.entries({
        EcrApi: ec2.InterfaceVpcEndpointAwsService.ECR,
        EcrDocker: ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
        Logs: ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
      })) {
        ways.add(this.vpc.addInterfaceEndpoint(name, { service, subnets: this.subnets }));
      }
    }
  }
}
