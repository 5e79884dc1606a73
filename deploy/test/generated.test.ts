import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { generated, LARGEST_TEMPLATE, template, yaml } from "../lib/generated";

const folder = join(__dirname, "..");
const files = generated();

for (const [file, text] of Object.entries(files)) {
  test(`${file} is what the source makes: else npm run generate`, () => {
    assert.ok(existsSync(join(folder, file)), `there is no ${file}`);
    assert.equal(readFileSync(join(folder, file), "utf8"), text);
  });
}

test("no other template lies beside them", () => {
  const made = Object.keys(files).filter((file) => file.startsWith("cloudformation/"));
  assert.deepEqual(readdirSync(join(folder, "cloudformation")).sort(), made.map((file) => file.slice("cloudformation/".length)).sort());
});

test("CloudFormation takes each template as it is, without a bucket: the largest of those that are not committed, too", () => {
  const certificate = "arn:aws:acm:ap-northeast-1:111122223333:certificate/00000000-0000-0000-0000-000000000000";
  const others = { endpoints: template({ network: "endpoints", ecr: "lameduck", certificate }), nat: template({ ecr: "lameduck", certificate }) };
  const texts = { ...files, ...Object.fromEntries(Object.entries(others).map(([name, it]) => [name, yaml(it)])) };
  for (const [file, text] of Object.entries(texts)) {
    assert.ok(Buffer.byteLength(text) <= LARGEST_TEMPLATE, `${file} has ${Buffer.byteLength(text)} bytes`);
  }
});

test("the task definition has init before the command, and one stop timeout", () => {
  const [container] = JSON.parse(files["task-definition.json"] ?? "").containerDefinitions;
  const value = (name: string) => container.environment.find((it: { name: string }) => it.name === name)?.value;
  assert.deepEqual(container.entryPoint, ["/init", "--"]);
  assert.equal(value("INIT_STOP_TIMEOUT"), `${container.stopTimeout}s`);
  assert.equal(parseInt(value("INIT_DRAIN"), 10) + parseInt(value("INIT_GRACE"), 10), container.stopTimeout);
});
