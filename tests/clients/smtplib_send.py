"""Sends standard input with smtplib, as its documentation does it. Prints what it raises, and then ends with 1."""

import smtplib
import ssl
import sys

way, port, ca, username, password, sender, recipient = sys.argv[1:]
message = sys.stdin.buffer.read()
try:
    context = ssl.create_default_context(cafile=ca)
    if way == "implicit":
        server = smtplib.SMTP_SSL("localhost", int(port), context=context, timeout=30)
    else:
        server = smtplib.SMTP("localhost", int(port), timeout=30)
        server.starttls(context=context)
    with server:
        server.login(username, password)
        server.sendmail(sender, [recipient], message, mail_options=["BODY=8BITMIME"])
except (smtplib.SMTPException, ssl.SSLError) as error:
    sys.exit(repr(error))
