#!/bin/sh
# Makes a key for each device of a list, and the sheet from which they are typed in.
#
#   from-csv.sh keys  DEVICES.csv > keys.yaml     # then: kubectl apply --filename keys.yaml
#   from-csv.sh sheet DEVICES.csv > sheet.csv     # reads the Secrets with kubectl: it has passwords
#
# DEVICES.csv has a line for each device: name,networks,sender. Several networks are separated by spaces. A first line with these
# words, empty lines and lines that begin with # are left out. NAMESPACE, ACCOUNT and CAP (a day's mails) are variables; so are
# HOST and PORT of the sheet, which else are the plain listener's, as each Secret has them (plain-host, plain-port).
set -eu

NAMESPACE=${NAMESPACE:-facilities}
ACCOUNT=${ACCOUNT:-devices}
CAP=${CAP:-60}

complain() {
    echo "$1" >&2
    exit 1
}

if [ $# -ne 2 ]; then complain "usage: $0 keys|sheet DEVICES.csv"; fi
[ -r "$2" ] || complain "$2: no such file, or it cannot be read"

# Prints the devices as name, networks, sender with tabs between them, or every mistake with its line and field, and nothing else.
devices() {
    awk -v file="$1" '
    function wrong(field, text) {
        printf "%s, line %d, %s: %s\n", file, NR, field, text > "/dev/stderr"
        mistakes++
    }
    function trimmed(text) {
        gsub(/^[ \t]+|[ \t]+$/, "", text)
        return text
    }
    # Whether it is an IPv4 address or network without bits behind the prefix, or looks like one of IPv6.
    function is_network(text,   parts, octets, bits, value, i) {
        if (split(text, parts, "/") > 2) return 0
        if (text ~ /\/$/ || (2 in parts && parts[2] !~ /^[0-9]+$/)) return 0
        if (parts[1] ~ /:/) return parts[1] ~ /^[0-9A-Fa-f:.]+$/ && (!(2 in parts) || parts[2] + 0 <= 128)
        if (split(parts[1], octets, ".") != 4) return 0
        for (i = 1; i <= 4; i++) {
            if (octets[i] !~ /^[0-9]+$/ || octets[i] ~ /^0[0-9]/ || octets[i] > 255) return 0
            value = value * 256 + octets[i]
        }
        bits = 2 in parts ? parts[2] + 0 : 32
        return bits <= 32 && value % 2 ^ (32 - bits) == 0
    }
    BEGIN { FS = "," }
    { sub(/\r$/, "") }
    NR == 1 { sub(/^\357\273\277/, "") }
    /^[ \t]*(#|$)/ { next }
    NR == 1 && /^name *, *networks *, *sender *$/ { next }
    /"/ { wrong("quotes", "write the fields without them; several networks are separated by spaces"); next }
    NF != 3 {
        wrong(NF < 3 ? (NF < 2 ? "networks" : "sender") : "field 4", "the line has " NF " fields; write name,networks,sender")
        next
    }
    {
        name = trimmed($1); networks = trimmed($2); sender = trimmed($3)
        if (name !~ /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/ || length(name) > 63)
            wrong("name", "\"" name "\" is no name of an object; write lower-case letters, digits and hyphens, 63 at most")
        else if (name in lines)
            wrong("name", name " stands in line " lines[name] " too; each device has a name of its own")
        else
            lines[name] = NR
        count = split(networks, each, /[ \t]+/)
        if (networks == "") wrong("networks", "it is empty; write the address that the device has, such as 10.20.7.12")
        else for (i = 1; i <= count; i++) if (!is_network(each[i]))
            wrong("networks", "\"" each[i] "\" is no address or network; write 10.20.7.12 or 10.20.7.0/24, with no bits set after the prefix")
        if (sender !~ /^(\*|[A-Za-z0-9._+-]+)@([A-Za-z0-9-]+\.)+[A-Za-z0-9-]+$/)
            wrong("sender", "\"" sender "\" is no address; write floor@scan.example.com or *@scan.example.com")
        found[++total] = name "\t" networks "\t" sender
    }
    END {
        if (!mistakes && !total) {
            printf "%s: it has no devices; write lines of name,networks,sender\n", file > "/dev/stderr"
            mistakes = 1
        }
        if (mistakes) exit 1
        for (i = 1; i <= total; i++) print found[i]
    }' "$1"
}

list=$(devices "$2")

keys() {
    echo "$list" | while IFS='	' read -r name networks sender; do
        cat <<KEY
---
apiVersion: franking.io/v1alpha1
kind: SubAccountApiKey
metadata:
  name: "$name"
  namespace: "$NAMESPACE"
spec:
  subAccountRef: {name: "$ACCOUNT"}
  plainListener: true
  allowFrom: ["$(echo "$networks" | sed 's/[[:space:]]\{1,\}/", "/g')"]
  allowedSenders: ["$sender"]
  cap: {credits: $CAP, period: Daily}
KEY
    done
}

# What the sheet takes from a Secret: plain-host,plain-port,username,password. The first two may be empty.
FIELDS='{{with index .data "plain-host"}}{{base64decode .}}{{end}},{{with index .data "plain-port"}}{{base64decode .}}{{end}}'
FIELDS="$FIELDS,{{base64decode .data.username}},{{base64decode .data.password}}"

sheet() {
    rows=$(echo "$list" | while IFS='	' read -r name networks sender; do
        secret=$(kubectl get secret "$name" --namespace "$NAMESPACE" --ignore-not-found --output "go-template=$FIELDS")
        [ -n "$secret" ] || complain "$name has no Secret yet: apply the keys, and wait until they are Ready"
        host=${HOST:-${secret%%,*}}
        secret=${secret#*,}
        port=${PORT:-${secret%%,*}}
        login=${secret#*,}
        if [ -z "$host" ] || [ -z "$port" ]; then
            complain "the Secret of $name has no plain-host and plain-port: enable relay.plain of the chart, or set HOST and PORT"
        fi
        case $host in
        *.svc) complain "$host is a name inside the cluster: set relay.hostname or relay.plain.hostname of the chart, or HOST" ;;
        esac
        echo "$name,$host,$port,$login,$sender"
    done)
    echo "name,host,port,username,password,sender"
    echo "$rows"
}

case $1 in
keys) keys ;;
sheet) sheet ;;
*) complain "usage: $0 keys|sheet DEVICES.csv" ;;
esac
