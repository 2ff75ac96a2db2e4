// Lets Azurite learn of an account at once: a line "name key" on standard input. (By itself it looks at its environment once
// a minute.) It ends when standard input does: with the process that started it.
const root = process.argv[1].replace(/dist[\\/].*/, "");
const store = require(root + "dist/src/common/AccountDataStore").default;
const known = {};
store.prototype.getAccount = (name) => known[name];
let rest = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (text) => {
  const lines = (rest + text).split("\n");
  rest = lines.pop();
  for (const line of lines) {
    const [name, key] = line.split(" ");
    known[name] = { name, key1: Buffer.from(key, "base64") };
    process.stdout.write(`account ${name}\n`);
  }
});
process.stdin.on("end", () => process.exit(0));
