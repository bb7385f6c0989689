{{- /*
What the containers have in common, up to the list of mounts, which each continues. Called with (list $ ROLE), or with
(list $ ROLE ARGUMENT…) where the command is not the role's name.
*/ -}}
{{- define "franking.container" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
image: {{ include "franking.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
args: [{{ default $role (join ", " (slice . 2)) }}, --config, /etc/franking/settings/franking.yaml]
env:
  # The containers of a pod share its ports, and so cannot share this setting.
  - name: FRANKING_TELEMETRY_ADDRESS
    value: {{ include "franking.address" (list $root (include "franking.telemetryPort" $role)) | quote }}
  {{- with include "franking.probesPort" $role }}
  # Apart from the metrics, so that whoever fills that port cannot have the pod restarted.
  - name: FRANKING_PROBES_ADDRESS
    value: {{ include "franking.address" (list $root .) | quote }}
  {{- end }}
  {{- if eq $root.Values.ledger.engine "postgres" }}
  # Who it is in the lease that the operators share.
  - name: FRANKING_INSTANCE
    valueFrom:
      fieldRef: {apiVersion: v1, fieldPath: metadata.name}
  {{- end }}
  {{- if eq $role "move" }}
  # Whose ledger it has to be: that of another installation is refused before it is touched.
  - name: FRANKING_INSTALLATION
    valueFrom:
      configMapKeyRef: {name: franking-installation, key: installation, optional: true}
  {{- end }}
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
  {{- if eq $root.Values.ledger.engine "postgres" }}
  - name: database
    mountPath: /etc/franking/database
    readOnly: true
  {{- else }}
  - name: relay-settings
    mountPath: /etc/franking/relay
    readOnly: true
  - name: ledger
    mountPath: /var/lib/franking
  - name: run
    mountPath: /run/franking
  - name: tmp
    mountPath: /tmp
  {{- end }}
{{- end -}}

{{- /* What the two containers mount that talk to the API server. */ -}}
{{- define "franking.tokenMounts" -}}
- name: token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- if .Values.relay.tls.privateCa }}
- name: ca
  mountPath: /etc/franking/ca
  readOnly: true
{{- end }}
{{- end -}}

{{- /* And the volumes of these mounts. */ -}}
{{- define "franking.tokenVolumes" -}}
{{- if .Values.relay.tls.privateCa }}
# The CA alone, for those who write it into Secrets and have no business with the private key.
- name: ca
  secret:
    secretName: {{ .Values.relay.tls.secretName }}
    defaultMode: 288 # 0440, which only YAML 1.1 could say
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
# What the kubelet mounts into every container by itself, for the two containers that may have it.
- name: token
  projected:
    defaultMode: 288 # 0440, which only YAML 1.1 could say
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]
{{- end -}}

{{- /* The pod's part that is the same whatever runs in it, up to its containers. */ -}}
{{- define "franking.pod" -}}
# The relay talks to the outside, so it must not hold a token: only prepare and operator mount one, below.
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
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
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int64 .Values.runAsUser }}
  runAsGroup: {{ int64 .Values.runAsUser }}
  fsGroup: {{ int64 .Values.runAsUser }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "franking.telemetryPort" -}}
{{- get (dict "prepare" "9090" "operator" "9091" "relay" "9092" "backup" "9093" "move" "9094") . -}}
{{- end -}}

{{- /* Of the containers that are probed. */ -}}
{{- define "franking.probesPort" -}}
{{- get (dict "operator" "9081" "relay" "9082") . -}}
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
