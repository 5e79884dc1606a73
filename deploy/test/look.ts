/** Looks into templates. */

import assert from "node:assert/strict";
import type { Properties, Template } from "../lib/generated";

/** The resources of a type, by logical id. */
export function resources(template: Template, type: string): Record<string, Properties> {
  const found = Object.entries(template.Resources).filter(([, resource]) => resource.Type === type);
  return Object.fromEntries(found.map(([id, resource]) => [id, (resource.Properties ??= {})]));
}

/** The one resource of a type whose logical id begins like this. */
export function resource(template: Template, type: string, prefix = ""): [id: string, properties: Properties] {
  const found = Object.entries(resources(template, type)).filter(([id]) => id.startsWith(prefix));
  const ids = Object.keys(resources(template, type));
  assert.equal(found.length, 1, `there are ${found.length} ${type} that begin with "${prefix}", among ${ids}`);
  return found[0] as [string, Properties];
}

/** A service's properties. */
export function service(template: Template, name: "Back" | "Front"): Properties {
  return resource(template, "AWS::ECS::Service", name)[1];
}

/** A task definition's properties. */
export function definition(template: Template, name: "Back" | "Front"): Properties {
  return resource(template, "AWS::ECS::TaskDefinition", name)[1];
}

/** The only container of a task definition. */
export function container(template: Template, name: "Back" | "Front"): Properties {
  const containers = definition(template, name)["ContainerDefinitions"];
  assert.equal(containers.length, 1);
  return containers[0];
}

/** A container's environment. */
export function environment(template: Template, name: "Back" | "Front"): Properties {
  return Object.fromEntries(container(template, name)["Environment"].map((it: Properties) => [it["Name"], it["Value"]]));
}

/** Sets a variable of a container. */
export function setEnvironment(template: Template, name: "Back" | "Front", variable: string, value: unknown): void {
  const found = container(template, name)["Environment"].find((it: Properties) => it["Name"] === variable);
  assert.ok(found, `${name} has no ${variable}`);
  found["Value"] = value;
}

/** The seconds of a variable such as `35s`. */
export function seconds(value: unknown): number {
  const found = /^(\d+)s$/.exec(String(value));
  assert.ok(found, `${JSON.stringify(value)} is no number of seconds`);
  return Number(found[1]);
}

/** What may come into a security group, or go out, as `peer:port`, whether the group itself says so or a rule beside it. */
export function rules(template: Template, direction: "Ingress" | "Egress", group: string): string[] {
  const [id, properties] = resource(template, "AWS::EC2::SecurityGroup", group);
  const beside = Object.values(resources(template, `AWS::EC2::SecurityGroup${direction}`));
  const own = beside.filter((rule) => rule["GroupId"]?.["Fn::GetAtt"]?.[0] === id);
  return [...(properties[`SecurityGroup${direction}`] ?? []), ...own]
    .map((rule: Properties) => {
      const other = rule["SourceSecurityGroupId"] ?? rule["DestinationSecurityGroupId"];
      const peer = other?.["Fn::GetAtt"]?.[0] ?? rule["CidrIp"]?.Ref ?? rule["CidrIp"] ?? JSON.stringify(rule);
      const ports = rule["FromPort"] === rule["ToPort"] ? rule["FromPort"] : `${rule["FromPort"]}-${rule["ToPort"]}`;
      return `${rule["IpProtocol"]} ${String(peer).replace(/SecurityGroup[0-9A-F]{8}$/, "")} ${ports}`;
    })
    .sort();
}
