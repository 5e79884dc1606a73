import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { template } from "../lib/generated";

/** What the AWS CLI says to the script, as it writes text: tabs, and None. */
const ANSWERS = {
  "cloudformation describe-stacks --stack-name Lameduck": "ClusterName\\tC1\\nBackServiceName\\tS1\\nBackDnsName\\tback.test\\nHostedZoneId\\tZ1\\n",
  "route53 list-resource-record-sets --hosted-zone-id Z1": "10.0.1.51\\t10.0.0.4\\n",
  "ecs list-tasks --cluster C1 --service-name S1": "arn:1\\tarn:2\\n",
  "ecs describe-tasks --cluster C1 --tasks arn:1 arn:2": "10.0.0.4\\n10.0.0.161\\n",
};

/** Runs the script with these answers until it sleeps. */
function timeline(answers: Record<string, string>, ...stack: string[]) {
  const folder = mkdtempSync(join(tmpdir(), "timeline-"));
  try {
    const cases = Object.entries(answers).map(([call, text]) => `"${call} "*) printf '${text}' ;;`);
    const aws = `#!/bin/sh\ncase "$* " in\n${cases.join("\n")}\n*) echo "no answer to $*" >&2; exit 254 ;;\nesac\n`;
    // The loop ends where it would wait.
    for (const [name, text] of [["aws", aws], ["sleep", "#!/bin/sh\nexit 9\n"]] as const) {
      writeFileSync(join(folder, name), text);
      chmodSync(join(folder, name), 0o755);
    }
    const env = { ...process.env, PATH: `${folder}:${process.env["PATH"]}` };
    return spawnSync(join(__dirname, "..", "timeline"), stack, { env, encoding: "utf8", timeout: 20_000 });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("timeline: a line as in the article, of the stack's own outputs", () => {
  const { stdout, stderr, status } = timeline(ANSWERS);
  assert.match(stdout, /^\d\d:\d\d:\d\d Route53: \["10\.0\.0\.4"\] \["10\.0\.1\.51"\] \| ECS: 10\.0\.0\.4 10\.0\.0\.161\n$/, stderr);
  assert.equal(status, 9);
  for (const name of ["ClusterName", "BackServiceName", "BackDnsName", "HostedZoneId"]) assert.ok(name in template().Outputs, name);
});

test("timeline: without records or tasks both are empty", () => {
  const none = { "route53 list-resource-record-sets --hosted-zone-id Z1": "None", "ecs list-tasks --cluster C1 --service-name S1": "None" };
  assert.match(timeline({ ...ANSWERS, ...none }).stdout, / Route53:  \| ECS: \n$/);
});

test("timeline: what cannot be asked, or has no such output, is an error and no empty line", () => {
  const { "route53 list-resource-record-sets --hosted-zone-id Z1": _, ...without } = ANSWERS;
  assert.deepEqual([timeline(without).stdout, timeline(without).status], ["", 254]);
  const other = { "cloudformation describe-stacks --stack-name Other": "Url\\thttp\\n" };
  const { stderr, status } = timeline(other, "Other");
  assert.deepEqual([stderr, status], ["the stack Other has no output HostedZoneId: is it one of this folder's\n", 1]);
});
