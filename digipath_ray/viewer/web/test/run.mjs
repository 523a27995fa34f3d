// Bundles each test with esbuild, as the page is, and runs them by `node --test`.
import { build } from "esbuild";
import { spawnSync } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL("./", import.meta.url));
const names = (await readdir(here)).filter((name) => name.endsWith(".test.ts"));
const outdir = await mkdtemp(join(tmpdir(), "viewer-test-"));
await build({
  entryPoints: names.map((name) => join(here, name)),
  outdir,
  outExtension: { ".js": ".mjs" },
  bundle: true,
  platform: "node",
  format: "esm",
});
const built = names.map((name) => join(outdir, name.replace(/ts$/, "mjs")));
const { status } = spawnSync(process.execPath, ["--test", ...built], { stdio: "inherit" });
await rm(outdir, { recursive: true });
process.exitCode = status ?? 1;
