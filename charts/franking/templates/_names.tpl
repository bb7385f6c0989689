{{- /* The chart's name. */ -}}
{{- define "franking.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* What every object's name begins with. 40 characters leave room for the longest ending in a label of 63. */ -}}
{{- define "franking.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "franking.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "franking.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "franking.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "franking.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* The namespaces whose Secrets the operator may write, as a YAML list; empty = all. */ -}}
{{- define "franking.secretNamespaces" -}}
{{- if .Values.rbac.namespaces -}}
{{- toYaml (concat .Values.rbac.namespaces (list .Release.Namespace) | uniq | sortAlpha) -}}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{- /* What a Service selects by. It can never change: a StatefulSet's selector is immutable. */ -}}
{{- define "franking.selectorLabels" -}}
app.kubernetes.io/name: {{ include "franking.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* "true" where the API server stamps who changed a spec (changed-by.yaml), so that the operator can believe the stamp. */ -}}
{{- define "franking.changedByStamped" -}}
{{- $known := .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
{{- if and .Values.admission.enabled .Values.admission.changedBy $known -}}true{{- end -}}
{{- end -}}

{{- define "franking.labels" -}}
{{ include "franking.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: franking
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* A digest says exactly what runs, so it wins over a tag. */ -}}
{{- define "franking.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The name that clients connect to. Inside the cluster every pod resolves the short form. */ -}}
{{- define "franking.hostname" -}}
{{- default (printf "%s-relay.%s.svc" (include "franking.fullname" .) .Release.Namespace) .Values.relay.hostname -}}
{{- end -}}
