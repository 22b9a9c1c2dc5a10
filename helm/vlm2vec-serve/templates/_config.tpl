{{/* The configuration of `vlm2vec serve`, as TOML. */}}
{{- define "vlm2vec.config" -}}
{{- $root := . -}}
listen = "0.0.0.0:50051"
metrics-listen = "0.0.0.0:9090"
drain-seconds = {{ .Values.drainSeconds }}
http-listen = {{ ternary "0.0.0.0:8080" "" .Values.http.enabled | quote }}
{{- if .Values.tls.secretName }}
tls-certificate = "/etc/vlm2vec/tls/tls.crt"
tls-key = "/etc/vlm2vec/tls/tls.key"
{{- if .Values.tls.clientCa }}
tls-client-ca = "/etc/vlm2vec/tls/ca.crt"
{{- end }}
{{- end }}
{{- if .Values.auth.callers.secretName }}
callers = {{ printf "/etc/vlm2vec/auth/%s" .Values.auth.callers.key | toJson }}
{{- end }}
{{- if not (include "vlm2vec.asksForCredentials" .) }}
allow-anonymous = true
{{- end }}
{{- with include "vlm2vec.registryUri" . }}
registry = {{ . | toJson }}
cache-dir = {{ include "vlm2vec.registryCache" $root | toJson }}
poll-seconds = {{ $root.Values.registry.pollSeconds }}
{{- with $root.Values.registry.webhookSecret }}
{{- if .name }}
webhook-secret-file = {{ printf "/etc/vlm2vec/webhook/%s" .key | toJson }}
{{- if not (or $root.Values.tls.secretName (hasKey $root.Values.settings "webhook-peers")) }}
webhook-peers = {{ printf "http://%s-headless:8080" (include "vlm2vec.fullname" $root) | toJson }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if not .Values.split.enabled }}
device = {{ include "vlm2vec.device" . | toJson }}
{{- with include "vlm2vec.threads" (dict "root" . "resources" .Values.resources "workers" (len .Values.models) "spare" 1) }}
threads = {{ . }}
{{- end }}
{{- end }}
{{- range $key, $value := .Values.settings }}
{{ $key }} = {{ if kindIs "float64" $value }}{{ if eq $value (float64 (int64 $value)) }}{{ int64 $value }}{{ else }}{{ $value }}{{ end }}{{ else }}{{ $value | toJson }}{{ end }}
{{- end }}
model = [
{{- range .Values.models }}
  {{ printf "%s=%s" .name (include "vlm2vec.folder" (dict "root" $root "item" .)) | toJson }},
{{- end }}
]
adapter = [
{{- range $model := .Values.models }}
{{- range .adapters }}
  {{ printf "%s/%s=%s" $model.name .version (include "vlm2vec.folder" (dict "root" $root "item" .)) | toJson }},
{{- end }}
{{- end }}
]
alias = [
{{- range $model := .Values.models }}
{{- range $alias, $version := .aliases }}
  {{ printf "%s@%s=%s" $model.name $alias $version | toJson }},
{{- end }}
{{- end }}
]
{{- if .Values.split.enabled }}
worker = [
{{- range $model := .Values.models }}
  {{ printf "%s=dns:%s.%s.svc:50052" $model.name (include "vlm2vec.workerName" (dict "root" $root "model" $model)) $root.Release.Namespace | toJson }},
{{- end }}
]
{{- end }}
{{- end -}}
