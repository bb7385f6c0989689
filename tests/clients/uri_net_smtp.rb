# Sends standard input with net/smtp, with the parts of a URI as URI.parse gives them.

require "net/smtp"
require "openssl"
require "uri"

uri, ca, from, to = ARGV
parts = URI.parse(uri)
raise uri unless parts.scheme == "smtps"

context = OpenSSL::SSL::SSLContext.new
context.set_params(ca_file: ca, verify_mode: OpenSSL::SSL::VERIFY_PEER)
server = Net::SMTP.new(parts.host, parts.port)
server.enable_tls(context)
message = $stdin.binmode.read
begin
  server.start(helo: "client.example", user: parts.user, secret: parts.password, authtype: :plain) do |session|
    session.send_message(message, from, to)
  end
rescue Net::SMTPAuthenticationError => error
  abort error.response.string
rescue Net::ProtocolError, OpenSSL::SSL::SSLError => error
  abort error.inspect
end
