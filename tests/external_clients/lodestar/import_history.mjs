// Lodestar's own slashing protection database: imports FILE, says what it signs, and
// exports again. node import_history.mjs FILE DATABASE OUT
import fs from "node:fs";
import { LevelDbController } from "@lodestar/db";
import { SlashingProtection } from "@lodestar/validator";

const [file, name, out] = process.argv.slice(2);
const silent = { debug() {}, verbose() {}, info() {}, warn() {}, error() {} };
const controller = new LevelDbController({ name }, { metrics: null, logger: silent });
await controller.start();
const history = JSON.parse(fs.readFileSync(file, "utf8"));
const bytes = (hex) => new Uint8Array(Buffer.from(hex.slice(2), "hex"));
const chain = bytes(history.metadata.genesis_validators_root);
const protection = new SlashingProtection({ controller });
await protection.importInterchange(history, chain);

const key = bytes(history.data[0].pubkey);
const signingRoot = new Uint8Array(32).fill(1);
const asked = {
  "block 99": () => protection.checkAndInsertBlockProposal(key, { slot: 99, signingRoot }),
  "block 100": () => protection.checkAndInsertBlockProposal(key, { slot: 100, signingRoot }),
  "block 101": () => protection.checkAndInsertBlockProposal(key, { slot: 101, signingRoot }),
};
for (const [sourceEpoch, targetEpoch] of [[10, 11], [20, 21], [19, 22], [21, 22]]) {
  asked[`vote ${sourceEpoch} ${targetEpoch}`] = () =>
    protection.checkAndInsertAttestation(key, { sourceEpoch, targetEpoch, signingRoot });
}
const signed = [];
for (const [what, ask] of Object.entries(asked)) {
  try {
    await ask();
    signed.push(what);
  } catch (error) {
    if (!error.type?.code?.startsWith("ERR_INVALID_")) throw error;
  }
}
const again = await protection.exportInterchange(chain, [key], { version: "5" });
fs.writeFileSync(out, JSON.stringify(again));
await controller.stop();
console.log(JSON.stringify(signed));
