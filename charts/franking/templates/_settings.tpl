{{- /* franking.yaml: what the processes of the pod are told. */ -}}
{{- define "franking.settings" -}}
name: {{ include "franking.fullname" . }}
stopSeconds: {{ add (int (include "franking.drainSeconds" .)) 15 }}
ledger:
  engine: {{ .Values.ledger.engine }}
  path: /var/lib/franking/ledger.db
operator:
  namespace: {{ .Release.Namespace }}
  concurrency: {{ int .Values.operator.concurrency }}
  statusWritesPerSecond: {{ int .Values.operator.statusWritesPerSecond }}
relay:
  configFile: /run/franking/relay.yaml
  settingsFile: /etc/franking/relay/relay-settings.yaml
telemetry:
  format: {{ .Values.log.format }}
  level: {{ .Values.log.level }}
{{- end -}}

{{- /* relay-settings.yaml: what clients see of the relay. The operator makes relay.yaml of it and follows its changes. */ -}}
{{- define "franking.relaySettings" -}}
{{- $ports := include "franking.ports" . | fromYaml -}}
{{- $modes := dict "submissions" "Implicit" "submission" "StartTls" "alternative" "StartTls" "plain" "Plain" -}}
hostname: {{ include "franking.hostname" . }}
# What Secrets tell programs to connect to: the Service's port of the best listener (RFC 8314 §3).
advertise:
  host: {{ include "franking.hostname" . }}
  port: {{ coalesce $ports.submissions $ports.submission $ports.alternative $ports.plain }}
listeners:
  {{- range $listener, $port := $ports }}
  - name: {{ $listener }}
    address: {{ include "franking.address" (list $ (include "franking.containerPort" $listener)) | quote }}
    mode: {{ get $modes $listener }}
    {{- if eq $listener "plain" }}
    # Printers and scanners give up after 30 s.
    budgetSeconds: 25
    networks: {{- toYaml $.Values.relay.plain.networks | nindent 6 }}
    {{- end }}
  {{- end }}
{{- if .Values.relay.tls.secretName }}
tls:
  certificates:
    - {certificateFile: /etc/franking/tls/tls.crt, keyFile: /etc/franking/tls/tls.key}
  {{- if .Values.relay.tls.privateCa }}
  caFile: /etc/franking/ca/ca.crt
  {{- end }}
{{- end }}
{{- with .Values.relay.limits }}
limits:
  {{- range $limit, $value := . }}
  {{ $limit }}: {{ int64 $value }}
  {{- end }}
{{- end }}
{{- end -}}
