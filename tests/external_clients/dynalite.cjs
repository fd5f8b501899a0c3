// dynalite, that outlives its clients: it throws when one of them dies in the middle of a
// request, as a signer does that is killed under load. DynamoDB doesn't care.
process.on("uncaughtException", (error) => {
  if (error.code === "ECONNRESET" && error.message === "aborted") return;
  console.error(error);
  process.exit(1);
});
require("./node_modules/dynalite/cli.js");
