"""Sends a message with Django's own backend, set up by a reader of EMAIL_URL. The first argument names the reader."""

import smtplib
import ssl
import sys

import dj_email_url
import django.conf
import environ
from django.core.mail import EmailMessage, get_connection

reader, url, sender, recipient = sys.argv[1:]
settings = {"dj-email-url": dj_email_url.parse, "django-environ": environ.Env.email_url_config}[reader](url)
django.conf.settings.configure(EMAIL_TIMEOUT=settings.pop("EMAIL_TIMEOUT", None) or 20, **settings)
try:
    message = EmailMessage("from Django", "hello", sender, [recipient], connection=get_connection())
    sys.exit(0 if message.send() == 1 else "not sent")
except (smtplib.SMTPException, ssl.SSLError, OSError) as error:
    sys.exit(repr(error))
