/**
 * The Logs Insights queries of `queries/*.query`. The text of a file is the query, comments included: the first says what it
 * tells, and `# Log group: front's.` (or back's, or both) whose log it reads.
 */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";

/** One query. */
export interface Query {
  /** The file's name without its ending. */
  readonly name: string;
  /** All of the file. */
  readonly text: string;
  /** The file without comments and empty lines. */
  readonly commands: string;
  /** The first line of comment. */
  readonly title: string;
  /** Whose logs it reads. */
  readonly logs: ("front" | "back")[];
}

/**
 * The queries in `folder`, by name. None if there is no such folder.
 *
 * @throws Error for a file without a command, or that does not say whose log it reads.
 */
export function queries(folder = join(__dirname, "..", "queries")): Query[] {
  if (!existsSync(folder)) return [];
  const files = readdirSync(folder).filter((file) => file.endsWith(".query"));
  return files.sort().map((file) => {
    const text = readFileSync(join(folder, file), "utf8");
    const lines = text.split("\n").map((line) => line.trimEnd());
    const name = basename(file, ".query");
    const comment = lines.find((line) => line.startsWith("#"))?.replace(/^#+\s*/, "").replace(/\.$/, "");
    const commands = lines.filter((line) => line !== "" && !line.startsWith("#")).join("\n");
    if (commands === "") throw new Error(`${join(folder, file)} has no command: write a query, or delete the file.`);
    const log = lines.find((line) => line.startsWith("# Log group: ")) ?? "";
    const logs = (["front", "back"] as const).filter((whose) => log.includes(`${whose}'s`));
    if (logs.length === 0) throw new Error(`${join(folder, file)} has no line "# Log group: front's." or "# Log group: back's.".`);
    return { name, text, commands, title: comment ?? name, logs };
  });
}
