{{- /*
What the containers have in common, up to the list of mounts, which each continues. Called with (list $ ROLE).
*/ -}}
{{- define "franking.container" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
image: {{ include "franking.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
args: [{{ $role }}, --config, /etc/franking/settings/franking.yaml]
env:
  # The containers of a pod share its ports, and so cannot share this setting.
  - name: FRANKING_TELEMETRY_ADDRESS
    value: {{ include "franking.address" (list $root (include "franking.telemetryPort" $role)) | quote }}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
volumeMounts:
  - name: settings
    mountPath: /etc/franking/settings
    readOnly: true
  - name: relay-settings
    mountPath: /etc/franking/relay
    readOnly: true
  - name: ledger
    mountPath: /var/lib/franking
  - name: run
    mountPath: /run/franking
  - name: tmp
    mountPath: /tmp
{{- end -}}

{{- define "franking.telemetryPort" -}}
{{- get (dict "prepare" "9090" "operator" "9091" "relay" "9092") . -}}
{{- end -}}

{{- /* A process without capabilities cannot listen under 1024, so the Service's ports lead to these. */ -}}
{{- define "franking.containerPort" -}}
{{- get (dict "submissions" "4465" "submission" "4587" "alternative" "4525" "plain" "4025") . -}}
{{- end -}}

{{- /* A socket address, called with (list $ PORT). */ -}}
{{- define "franking.address" -}}
{{- $host := (index . 0).Values.bindAddress -}}
{{- if contains ":" $host }}[{{ $host }}]{{ else }}{{ $host }}{{ end }}:{{ index . 1 }}
{{- end -}}
