// Bundles web/ into page/: what the server hands out, and nothing from elsewhere.
import { build } from "esbuild";
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const web = fileURLToPath(new URL("./", import.meta.url));
const page = fileURLToPath(new URL("../page/", import.meta.url));

const { dependencies } = JSON.parse(await readFile(`${web}package.json`, "utf8"));
await rm(page, { recursive: true, force: true });
await mkdir(page, { recursive: true });
await build({
  absWorkingDir: web,
  entryPoints: { viewer: "src/main.ts" },
  outdir: page,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome110", "firefox115", "safari16"],
  legalComments: "none", // they are in THIRD_PARTY_LICENSES, whole
});
await build({
  absWorkingDir: web,
  entryPoints: { viewer: "style.css" },
  outdir: page,
  minify: true,
});
await copyFile(`${web}index.html`, `${page}index.html`);
await copyFile(`${web}icon.svg`, `${page}icon.svg`);
await writeFile(`${page}THIRD_PARTY_LICENSES`, await licenses(Object.keys(dependencies)));

async function licenses(names) {
  const parts = names.map(async (name) => {
    const folder = `${web}node_modules/${name}`;
    const { version, license } = JSON.parse(await readFile(`${folder}/package.json`, "utf8"));
    const text = await readFile(`${folder}/LICENSE.txt`, "utf8");
    return `${name} ${version} (${license})\n\n${text.trim()}\n`;
  });
  return (await Promise.all(parts)).join("\n");
}
