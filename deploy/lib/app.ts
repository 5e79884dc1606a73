/** The app: one stack, as the context says. */

import { App } from "aws-cdk-lib";
import { settings } from "./settings";
import { LameduckStack } from "./stack";

/** The app with its stack, for `context` (or what the CDK's command line was given). */
export function lameduck(context?: Record<string, string>): { app: App; stack: LameduckStack } {
  const app = new App({
    analyticsReporting: false,
    // On its own accord the app would write what there is of the stack even where the stack was refused.
    autoSynth: false,
    ...(context ? { context } : {}),
  });
  const chosen = settings(app.node.getAllContext());
  const stack = new LameduckStack(app, chosen.profile === "article" ? "LameduckArticle" : "Lameduck", chosen);
  return { app, stack };
}
