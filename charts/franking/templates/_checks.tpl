{{- /*
What no schema can say with a reason. Each refusal is one sentence that names the value, and what to do.
*/ -}}
{{- define "franking.checks" -}}
{{- $engine := .Values.ledger.engine -}}
{{- if not (has $engine (list "sqlite" "postgres")) -}}
{{- fail (printf "ledger.engine is %q: use sqlite, one file on the volume of one pod, or postgres, a database that several pods share" $engine) -}}
{{- end -}}
{{- range $role := list "operator" "relay" -}}
{{- $replicas := (get $.Values $role).replicas -}}
{{- if and (eq $engine "sqlite") (not (has (toString $replicas) (list "" "1"))) -}}
{{- fail (printf "%s.replicas is %v, and with ledger.engine sqlite it can only be 1: the ledger is one SQLite file on the volume of one pod, and two pods cannot share it without charging credits twice; use ledger.engine postgres" $role $replicas) -}}
{{- end -}}
{{- if and (eq $engine "postgres") (ne (toString $replicas) "") (lt (int $replicas) 1) -}}
{{- fail (printf "%s.replicas is %v: at least 1 has to work" $role $replicas) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $engine "sqlite") .Values.ledger.postgres.secretName -}}
{{- fail "ledger.postgres.secretName is set, and ledger.engine is sqlite, which would not use it: set ledger.engine to postgres, or leave the Secret out" -}}
{{- end -}}
{{- if and (eq $engine "postgres") (not .Values.ledger.postgres.secretName) -}}
{{- fail "ledger.postgres.secretName is empty, and ledger.engine is postgres: name the Secret that holds the database's URI, such as CloudNativePG's <cluster>-app" -}}
{{- end -}}
{{- if and .Values.ledger.moveFrom (ne $engine "postgres") -}}
{{- fail "ledger.moveFrom is set, and ledger.engine is sqlite: a ledger is moved from SQLite into PostgreSQL, and there is no way back, so set ledger.engine to postgres, or leave the claim out" -}}
{{- end -}}
{{- if and .Values.ledger.moveFrom (not .Values.ledger.volume.retain) -}}
{{- fail "ledger.moveFrom is set with ledger.volume.retain false: the claim would be deleted with the StatefulSet before it is read, so upgrade with ledger.volume.retain true, and with engine sqlite, first" -}}
{{- end -}}
{{- if and .Values.relay.plain.enabled (not .Values.relay.plain.networks) -}}
{{- fail "relay.plain.networks is empty: a listener without TLS serves only source networks that are trusted by name, so list them or set relay.plain.enabled to false" -}}
{{- end -}}
{{- $backup := .Values.ledger.backup -}}
{{- if and $backup.enabled (eq $engine "postgres") -}}
{{- fail "ledger.backup.enabled is true with ledger.engine postgres: a database is backed up by its own tools, see RUNBOOK.md" -}}
{{- end -}}
{{- if and $backup.enabled (eq $backup.mode "CronJob") (eq .Values.ledger.volume.accessMode "ReadWriteOncePod") -}}
{{- fail "ledger.backup.mode is CronJob with ledger.volume.accessMode ReadWriteOncePod: no second pod may mount that volume, so use the mode Sidecar, or the access mode ReadWriteOnce" -}}
{{- end -}}
{{- $served := dict -}}
{{- range $name, $port := include "franking.ports" . | fromYaml -}}
{{- $port = toString $port -}}
{{- if hasKey $served $port -}}
{{- fail (printf "relay: port %s is used for %s and for %s; one port has one listener" $port (get $served $port) $name) -}}
{{- end -}}
{{- $_ := set $served $port $name -}}
{{- end -}}
{{- if not $served -}}
{{- fail "relay.ports are all 0 and relay.plain is off: no mail could come in, so give at least one listener a port" -}}
{{- end -}}
{{- $least := add (int (include "franking.drainSeconds" .)) 20 -}}
{{- if lt (int64 .Values.terminationGracePeriodSeconds) $least -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, and relay.limits.drainSeconds wants at least %d: messages in flight would be cut off" (int .Values.terminationGracePeriodSeconds) $least) -}}
{{- end -}}
{{- $drain := int (include "franking.drainSeconds" .) -}}
{{- $budgets := dict "relay.budgetSeconds" .Values.relay.budgetSeconds -}}
{{- if .Values.relay.plain.enabled -}}
{{- $_ := set $budgets "relay.plain.budgetSeconds" .Values.relay.plain.budgetSeconds -}}
{{- end -}}
{{- range $name, $seconds := $budgets -}}
{{- if gt (int $seconds) $drain -}}
{{- fail (printf "%s is %d and relay.limits.drainSeconds is %d: a stop would not wait for the messages in flight, so lower the one, or raise the other and terminationGracePeriodSeconds with it" $name (int $seconds) $drain) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.relay.tls.rsaSecretName (not .Values.relay.tls.secretName) -}}
{{- fail "relay.tls.rsaSecretName is set without relay.tls.secretName: name a certificate for everybody else, or this one there" -}}
{{- end -}}
{{- if and .Values.relay.tls.privateCa (not .Values.relay.tls.secretName) -}}
{{- fail "relay.tls.privateCa is true without relay.tls.secretName: name the Secret whose ca.crt is meant" -}}
{{- end -}}
{{- end -}}

{{- /* The relay's listeners that are served, as name: port of the Service. */ -}}
{{- define "franking.ports" -}}
{{- range $name, $port := .Values.relay.ports }}
{{- if $port }}
{{ $name }}: {{ int $port }}
{{- end }}
{{- end }}
{{- if .Values.relay.plain.enabled }}
plain: {{ int .Values.relay.plain.port }}
{{- end }}
{{- end -}}

{{- /* The pods of a role, called with (list $ ROLE). */ -}}
{{- define "franking.replicas" -}}
{{- $root := index . 0 -}}
{{- default (ternary 2 1 (eq $root.Values.ledger.engine "postgres")) (get $root.Values (index . 1)).replicas | int -}}
{{- end -}}

{{- /* How long the relay lets sessions finish: the built-in bound, unless a value replaces it. */ -}}
{{- define "franking.drainSeconds" -}}
{{- dig "drainSeconds" 330 .Values.relay.limits | int -}}
{{- end -}}
