// Sends standard input with nodemailer, with the parts of a URI as `new URL` gives them. Ends with 1 where it throws.

const fs = require("node:fs");

const [library, uri, ca, from, to] = process.argv.slice(2);
const { protocol, hostname, port, username, password } = new URL(uri);
const transport = require(library).createTransport({
  host: hostname,
  port: Number(port),
  secure: protocol === "smtps:",
  auth: { user: username, pass: password },
  tls: { ca: fs.readFileSync(ca) },
});
transport.sendMail({ envelope: { from, to }, raw: fs.readFileSync(0) }).then(
  () => transport.close(),
  (error) => {
    console.error(`${error.code} ${error.responseCode}: ${error.message}`);
    process.exitCode = 1;
  },
);
