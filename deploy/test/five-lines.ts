import { Stack } from "aws-cdk-lib";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as servicediscovery from "aws-cdk-lib/aws-servicediscovery";
import { LameDuckService } from "../lib/lame-duck-service";

/** What deploy/README.md shows, between the marks; a test compares. */
export function fiveLines(stack: Stack, namespaceName = "shop.internal"): LameDuckService {
  const vpc = new ec2.Vpc(stack, "Vpc");
  const cluster = new ecs.Cluster(stack, "Cluster", { vpc });
  const namespace = new servicediscovery.PrivateDnsNamespace(stack, "Namespace", { name: namespaceName, vpc });
  const callers = new ec2.SecurityGroup(stack, "Callers", { vpc });
  // README
  const image = ecs.ContainerImage.fromRegistry("registry.example/orders:7"); // has /init, and its ENTRYPOINT is ["/init", "--"]
  const orders = new LameDuckService(stack, "Orders", {
    cluster, namespace, image, name: "orders", port: 8080,
  });
  orders.connections.allowFrom(callers, ec2.Port.tcp(8080)); // they find it at http://orders.shop.internal:8080
  // README
  return orders;
}
