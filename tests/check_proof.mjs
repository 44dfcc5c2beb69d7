// Checks one proof, as docs/evidence.md describes it: node check_proof.mjs proof.json "$(cat audit.pub)"
import { createHash, createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";

const sha = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest();
const must = (ok, what) => { if (!ok) { console.error(`NOT PROVEN: ${what}`); process.exit(1); } };
const spaced = (value) => Array.isArray(value) ? `[${value.map(spaced).join(", ")}]` : JSON.stringify(value);
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function root(entry, index, size, path) { // RFC 9162, 2.1.3.2
  must(Number.isSafeInteger(index) && index >= 0 && index < size, "index");
  let fn = index, sn = size - 1, r = sha(Buffer.from([0]), JSON.stringify(entry));
  for (const hex of path) {
    must(sn > 0 && /^[0-9a-f]{64}$/.test(hex), "path");
    const p = Buffer.from(hex, "hex");
    if (fn % 2 || fn === sn) {
      r = sha(Buffer.from([1]), p, r);
      while (fn % 2 === 0 && fn > 0) { fn /= 2; sn = Math.floor(sn / 2); }
    } else r = sha(Buffer.from([1]), r, p);
    fn = Math.floor(fn / 2); sn = Math.floor(sn / 2);
  }
  must(sn === 0, "path is short");
  return r;
}

const { format, row, row_index, row_path, history, leaf, leaf_path, note } = JSON.parse(readFileSync(process.argv[2], "utf8"));
must(format === "im-attr-audit-proof-v1", "format");
const [name, keyId, key64] = process.argv[3].trim().match(/^([^+]+)\+([0-9a-f]{8})\+(.*)$/).slice(1);
const key = Buffer.from(key64, "base64");
must(key.length === 33 && key[0] === 1 && sha(name + "\n", key).toString("hex", 0, 4) === keyId, "the public key");
const cut = note.lastIndexOf("\n\n"), text = note.slice(0, cut + 1);
const signature = note.slice(cut + 2).split("\n").filter((line) => line.startsWith(`— ${name} `))
  .map((line) => Buffer.from(line.split(" ")[2], "base64")).find((bytes) => bytes.toString("hex", 0, 4) === keyId);
const jwk = { kty: "OKP", crv: "Ed25519", x: key.subarray(1).toString("base64url") };
must(signature && verify(null, Buffer.from(text), createPublicKey({ key: jwk, format: "jwk" }), signature.subarray(4)), "signature");
const [origin, size, logRoot] = text.split("\n");
must(origin === name && leaf[0] === "run-v1" && leaf.length === 10, "another log");
must(root(leaf, leaf[1], Number(size), leaf_path).toString("base64") === logRoot, "leaf");
const at = { "poll-v1": 3, "change-v1": 5, "target-v1": 7 }[row[0]];
must(at && root(row, row_index, leaf[at], row_path).toString("hex") === leaf[at + 1], "row");
let head = null;
const names = {};
for (const [i, change] of history.entries()) {
  must(change[1] === row[3] && change[2] === row[4] && change[3] === i + 1 && change[19] === head, "history");
  head = sha(spaced(change)).toString("hex");
  names[change[4]] = change[6];
}
if (at === 3) must(same([history.length || null, head], row.slice(21)), "the history does not end at the poll's head");
else must(history.length === 0, "history of a row that is not a poll");
if (at === 5) must(sha(spaced(row.slice(1, 21))).toString("hex") === row[21], "row_hash");
console.log(`PROVEN by ${name}: seal ${leaf[1]} of ${size}, closed ${new Date(leaf[2] / 1000).toISOString()}`, JSON.stringify(row), JSON.stringify(names));
