// npm run generate [FOLDER]: writes what is committed, here or there.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { generated } from "../lib/generated";

const folder = process.argv[2] ?? join(__dirname, "..");
for (const [file, text] of Object.entries(generated())) {
  const path = join(folder, file);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  console.log(`${file}: ${Buffer.byteLength(text)} bytes`);
}
