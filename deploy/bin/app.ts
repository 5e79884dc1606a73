import { lameduck } from "../lib/app";

// A setting that is wrong is told in a line; the stack of calls says nothing to whoever gave it.
try {
  lameduck().app.synth();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
