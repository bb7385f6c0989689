<?php
// Sends standard input over a stream, as PHP's mail libraries do, with the parts of a URI as parse_url gives them.

[, $uri, $ca, $from, $to] = $argv;
$parts = parse_url($uri);
if ($parts["scheme"] !== "smtps") {
    exit($uri);
}
$context = stream_context_create(["ssl" => ["cafile" => $ca, "verify_peer" => true, "verify_peer_name" => true]]);
$address = "ssl://{$parts["host"]}:{$parts["port"]}";
$stream = stream_socket_client($address, $code, $error, 30, STREAM_CLIENT_CONNECT, $context) or exit(1);

/** Writes a command and reads its reply, which must have this code. */
function ask($stream, ?string $command, string $code): void
{
    if ($command !== null) {
        fwrite($stream, "$command\r\n");
    }
    do {
        $line = fgets($stream);
    } while ($line !== false && substr($line, 3, 1) === "-");
    if ($line === false || !str_starts_with($line, $code)) {
        fwrite(STDERR, (string) $line);
        exit(1);
    }
}

ask($stream, null, "220");
ask($stream, "EHLO client.example", "250");
ask($stream, "AUTH PLAIN " . base64_encode("\0{$parts["user"]}\0{$parts["pass"]}"), "235");
ask($stream, "MAIL FROM:<$from>", "250");
ask($stream, "RCPT TO:<$to>", "250");
ask($stream, "DATA", "354");
$message = stream_get_contents(STDIN);
ask($stream, preg_replace('/^\./m', "..", $message) . ".", "250");
ask($stream, "QUIT", "221");
