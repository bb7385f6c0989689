{{- /* franking.yaml: what the processes of the pod are told. */ -}}
{{- define "franking.settings" -}}
name: {{ include "franking.fullname" . }}
{{- $apart := eq .Values.ledger.engine "postgres" }}
{{- if $apart }}
# Reconciles under way have 30 s; it drains no mail.
stopSeconds: 45
ledger:
  engine: postgres
  urlFile: /etc/franking/database/uri
  singleNode: {{ .Values.ledger.postgres.singleNode }}
{{- else }}
stopSeconds: {{ add (int (include "franking.drainSeconds" .)) 15 }}
ledger:
  engine: sqlite
  path: /var/lib/franking/ledger.db
{{- end }}
operator:
  namespace: {{ .Release.Namespace }}
  {{- if .Values.rbac.namespaces }}
  secretNamespaces: {{- include "franking.secretNamespaces" . | nindent 4 }}
  {{- end }}
  concurrency: {{ int .Values.operator.concurrency }}
  statusWritesPerSecond: {{ int .Values.operator.statusWritesPerSecond }}
  effectiveConfigMap: {{ include "franking.fullname" . }}-relay-effective
  metricAccounts: {{ .Values.operator.metricAccounts }}
  {{- if include "franking.changedByStamped" . }}
  changedByStamped: true
  {{- end }}
  {{- if $apart }}
  leaderElection: true
  {{- end }}
relay:
  {{- if $apart }}
  configMap: {{ include "franking.fullname" . }}-relay
  {{- else }}
  configFile: /run/franking/relay.yaml
  settingsFile: /etc/franking/relay/relay-settings.yaml
  {{- end }}
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
  {{- with $ports.plain }}
  plainPort: {{ . }}
  {{- with $.Values.relay.plain.hostname }}
  plainHost: {{ . | quote }}
  {{- end }}
  {{- end }}
listeners:
  {{- range $listener, $port := $ports }}
  - name: {{ $listener }}
    address: {{ include "franking.address" (list $ (include "franking.containerPort" $listener)) | quote }}
    mode: {{ get $modes $listener }}
    {{- with $.Values.relay.proxyFrom }}
    proxyFrom: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if eq $listener "plain" }}
    budgetSeconds: {{ int64 $.Values.relay.plain.budgetSeconds }}
    lineEnds: {{ $.Values.relay.plain.lineEnds }}
    networks: {{- toYaml $.Values.relay.plain.networks | nindent 6 }}
    {{- else }}
    budgetSeconds: {{ int64 $.Values.relay.budgetSeconds }}
    lineEnds: {{ $.Values.relay.lineEnds }}
    {{- end }}
  {{- end }}
{{- if .Values.relay.tls.secretName }}
tls:
  certificates:
    - {certificateFile: /etc/franking/tls/tls.crt, keyFile: /etc/franking/tls/tls.key}
    {{- if .Values.relay.tls.rsaSecretName }}
    - {certificateFile: /etc/franking/tls/rsa.crt, keyFile: /etc/franking/tls/rsa.key}
    {{- end }}
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

{{- /* What the Service and the fleet of relays select their pods by. It can never change. */ -}}
{{- define "franking.relaySelector" -}}
{{ include "franking.selectorLabels" . }}
app.kubernetes.io/component: relay
{{- end -}}

{{- /* pods.yaml: what the operator makes the relays' pods and disruption budget of, with postgres. */ -}}
{{- define "franking.pods" -}}
replicas: {{ include "franking.replicas" (list . "relay") }}
image: {{ include "franking.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
selector: {{- include "franking.relaySelector" . | nindent 2 }}
labels:
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/part-of: franking
  {{- with .Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.podLabels }}
podLabels: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podAnnotations }}
podAnnotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.relay.resources }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- if .Values.relay.topologySpreadConstraints }}
  {{- toYaml .Values.relay.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels: {{- include "franking.relaySelector" . | nindent 8 }}
  {{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
runAsUser: {{ int64 .Values.runAsUser }}
terminationGracePeriodSeconds: {{ int .Values.terminationGracePeriodSeconds }}
{{- with .Values.relay.tls.secretName }}
certificateSecret: {{ . }}
{{- end }}
{{- with .Values.relay.tls.rsaSecretName }}
rsaCertificateSecret: {{ . }}
{{- end }}
log:
  level: {{ .Values.log.level }}
  format: {{ .Values.log.format }}
telemetry:
  address: {{ include "franking.address" (list . (include "franking.telemetryPort" "relay")) | quote }}
  probesAddress: {{ include "franking.address" (list . (include "franking.probesPort" "relay")) | quote }}
disruptionBudget:
  maxUnavailable: {{ .Values.relay.podDisruptionBudget.maxUnavailable }}
{{- end -}}
