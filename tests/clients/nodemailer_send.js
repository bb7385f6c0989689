// Sends standard input with nodemailer, as its documentation does it. Prints what it throws, and then ends with 1.

const fs = require("node:fs");

const [library, way, port, ca, user, pass, from, to] = process.argv.slice(2);
const transport = require(library).createTransport({
  host: "localhost",
  port: Number(port),
  secure: way === "implicit",
  requireTLS: way === "starttls",
  auth: { user, pass },
  tls: { ca: fs.readFileSync(ca) },
});
transport.sendMail({ envelope: { from, to }, raw: fs.readFileSync(0) }).then(
  () => transport.close(),
  (error) => {
    console.error(`${error.code} ${error.responseCode}: ${error.message}`);
    process.exitCode = 1;
  },
);
