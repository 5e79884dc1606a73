/** A template as a list of facts, `role of the resource: path of the property` and its value, so that two can be compared. */

import type { Properties, Template } from "../lib/generated";

/** What a resource is for: its type, and how its logical id begins in our template. */
export const ROLES: [role: string, type: string, prefix: string][] = [
  ["VPC", "AWS::EC2::VPC", ""],
  ["namespace", "AWS::ServiceDiscovery::PrivateDnsNamespace", ""],
  ["record", "AWS::ServiceDiscovery::Service", ""],
  ["back service", "AWS::ECS::Service", "Back"],
  ["front service", "AWS::ECS::Service", "Front"],
  ["back task", "AWS::ECS::TaskDefinition", "Back"],
  ["front task", "AWS::ECS::TaskDefinition", "Front"],
  ["load balancer", "AWS::ElasticLoadBalancingV2::LoadBalancer", ""],
  ["listener", "AWS::ElasticLoadBalancingV2::Listener", ""],
  ["targets", "AWS::ElasticLoadBalancingV2::TargetGroup", ""],
  ["back log", "AWS::Logs::LogGroup", "Back"],
  ["front log", "AWS::Logs::LogGroup", "Front"],
];

/** Names that are generated, and references, which say nothing by themselves. */
const NOISE = /(^|\.)(Tags|Family|VpcId|Vpc|NamespaceId|Cluster|TaskDefinition|TaskRoleArn|ExecutionRoleArn|RegistryArn|TargetGroupArn|LoadBalancerArn|SecurityGroups|Subnets|awslogs-group|awslogs-region|Image)(\.|$)/;

/** All facts of a template. */
export function facts(template: Template, roles: typeof ROLES): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  for (const { Type } of Object.values(template.Resources)) {
    found[`count: ${Type}`] = Number(found[`count: ${Type}`] ?? 0) + 1;
  }
  for (const [role, type, prefix] of roles) {
    for (const [id, resource] of Object.entries(template.Resources)) {
      if (resource.Type === type && id.startsWith(prefix)) flatten(role, "", resource.Properties ?? {}, found);
    }
  }
  return found;
}

function flatten(role: string, path: string, value: unknown, into: Record<string, unknown>): void {
  if (NOISE.test(path)) return;
  if (Array.isArray(value) && value.every((it) => typeof it !== "object")) {
    into[`${role}: ${path}`] = value.join(" ");
  } else if (Array.isArray(value)) {
    value.forEach((it, index) => {
      // What lists name is found by its name, and not by its place.
      const name = it["Key"] ?? (it["Value"] === undefined ? undefined : it["Name"]);
      if (name === undefined) flatten(role, value.length > 1 ? `${path}.${index}` : path, it, into);
      else flatten(role, `${path}.${name}`, it["Value"], into);
    });
  } else if (typeof value === "object" && value !== null) {
    for (const [name, inner] of Object.entries(value as Properties)) {
      flatten(role, name === "Ref" ? path : path === "" ? name : `${path}.${name}`, inner, into);
    }
  } else {
    into[`${role}: ${path}`] = value;
  }
}
