import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { generated } from "../lib/generated";

for (const [file, text] of Object.entries(generated())) {
  const path = join(__dirname, "..", file);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  console.log(`${file}: ${Buffer.byteLength(text)} bytes`);
}
