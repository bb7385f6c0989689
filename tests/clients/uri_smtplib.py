"""Sends standard input with smtplib, with the parts of a URI as `urlparse` gives them."""

import smtplib
import ssl
import sys
from urllib.parse import urlparse

uri, ca, sender, recipient = sys.argv[1:]
parts = urlparse(uri)
assert parts.scheme == "smtps", uri
message = sys.stdin.buffer.read()
try:
    context = ssl.create_default_context(cafile=ca)
    with smtplib.SMTP_SSL(parts.hostname, parts.port, context=context, timeout=30) as server:
        server.login(parts.username, parts.password)
        server.sendmail(sender, [recipient], message, mail_options=["BODY=8BITMIME"])
except (smtplib.SMTPException, ssl.SSLError) as error:
    sys.exit(repr(error))
