/**
 * What may be chosen: `cdk deploy -c NAME=VALUE`. Pure: the CDK's context in, settings or a reason out.
 *
 * They are context and not CloudFormation parameters because they are part of the stop budget, or decide which resources there
 * are: a parameter's value is known only when it is too late to refuse it. What can be anything (images, who may call) is a
 * parameter.
 */

/** How tasks reach the registry that their images are in, and CloudWatch. */
export type Network = "nat" | "public" | "endpoints";

/** The settings of a stack. Times in whole seconds. */
export interface Settings {
  /** `recommended`, or `article`: the article's, with what is wrong with them. */
  readonly profile: "recommended" | "article";
  /** The TTL of back's record. */
  readonly ttl: number;
  /** The drain of back's tasks, if it is not TTL + DNS margin. */
  readonly drain: number | undefined;
  /** How long a request to back may take. */
  readonly inFlight: number;
  /** See {@link Network}. */
  readonly network: Network;
  /** The prefix of the ECR repositories that hold the images, in the stack's account and region: PREFIX/front, PREFIX/back. */
  readonly ecr: string | undefined;
  /** The ARN of a certificate in ACM: the load balancer then serves HTTPS. */
  readonly certificate: string | undefined;
  /** Whether `GET /error` breaks a task, for the article's fourth question. */
  readonly faults: boolean;
}

const KNOWN = ["profile", "ttl", "drain", "in-flight", "network", "ecr", "certificate", "faults"];

/**
 * Reads the settings.
 *
 * @throws Error for a name that is none, a value that is none, and settings that contradict each other.
 */
export function settings(context: Record<string, unknown>): Settings {
  // The CDK's own have a colon or a slash in their names.
  for (const name of Object.keys(context).filter((name) => !/[:/]/.test(name) && !KNOWN.includes(name))) {
    throw new Error(`There is no setting ${name}: there are ${KNOWN.join(", ")}.`);
  }
  const profile = one(context, "profile", ["recommended", "article"]) ?? "recommended";
  const isArticle = profile === "article";
  const ecr = text(context, "ecr", /^[a-z0-9]+([._/-][a-z0-9]+)*$/, "a prefix of repositories, such as lameduck");
  const network = one(context, "network", ["nat", "public", "endpoints"]) ?? (isArticle ? "public" : "nat");
  if (network === "endpoints" && ecr === undefined) {
    throw new Error(
      "Setting network=endpoints has no way to a registry but ECR: copy the images there and name them with -c ecr=PREFIX, or " +
        "choose -c network=nat.",
    );
  }
  return {
    profile,
    // The article's first run was with the CDK's default.
    ttl: seconds(context, "ttl") ?? (isArticle ? 60 : 30),
    drain: seconds(context, "drain") ?? (isArticle ? 0 : undefined),
    inFlight: seconds(context, "in-flight") ?? 20,
    network,
    ecr,
    certificate: text(context, "certificate", /^arn:[a-z-]+:acm:[^:]+:\d+:certificate\/.+$/, "the ARN of a certificate in ACM"),
    // The article's images can always be broken.
    faults: (one(context, "faults", ["true", "false"]) ?? String(isArticle)) === "true",
  };
}

function one<T extends string>(context: Record<string, unknown>, name: string, of: readonly T[]): T | undefined {
  if (context[name] === undefined) return undefined;
  const found = of.find((value) => value === String(context[name]));
  if (found === undefined) throw new Error(`Setting ${name} is ${JSON.stringify(context[name])}: give ${of.join(" or ")}.`);
  return found;
}

function seconds(context: Record<string, unknown>, name: string): number | undefined {
  if (context[name] === undefined) return undefined;
  const found = /^(\d{1,6})s?$/.exec(String(context[name]));
  if (found === null) throw new Error(`Setting ${name} is ${JSON.stringify(context[name])}: give whole seconds, such as 30.`);
  return Number(found[1]);
}

function text(context: Record<string, unknown>, name: string, form: RegExp, what: string): string | undefined {
  if (context[name] === undefined) return undefined;
  if (!form.test(String(context[name]))) throw new Error(`Setting ${name} is ${JSON.stringify(context[name])}: give ${what}.`);
  return String(context[name]);
}
