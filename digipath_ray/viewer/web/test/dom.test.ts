import assert from "node:assert/strict";
import { test } from "node:test";

import { printable } from "../src/page/dom";

test("characters that act on a page are shown as their codes", () => {
  assert.equal(printable("a\u202egpj.exe"), "a\\u202egpj.exe");
  assert.equal(printable("\u001b[2J\u0000\u009b\u2066"), "\\u001b[2J\\u0000\\u009b\\u2066");
});

test("all other characters stay", () => {
  const text = "Gewebe \u00c4 \u7ec4\u7ec7 \u{1f9eb} <b>\n\t\u00b5";
  assert.equal(printable(text), text);
});
