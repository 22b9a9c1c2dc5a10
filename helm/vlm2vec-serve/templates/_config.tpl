{{/* The configuration of `vlm2vec serve`, as TOML. */}}
{{- define "vlm2vec.config" -}}
{{- $root := . -}}
{{- $mount := .Values.modelCache.mountPath -}}
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
{{- end }}
{{- end }}
{{- end }}
{{- if not .Values.split.enabled }}
device = {{ include "vlm2vec.device" . | toJson }}
{{- end }}
{{- range $key, $value := .Values.settings }}
{{ $key }} = {{ if kindIs "float64" $value }}{{ if eq $value (float64 (int64 $value)) }}{{ int64 $value }}{{ else }}{{ $value }}{{ end }}{{ else }}{{ $value | toJson }}{{ end }}
{{- end }}
model = [
{{- range .Values.models }}
  {{ printf "%s=%s/%s" .name $mount .folder | toJson }},
{{- end }}
]
adapter = [
{{- range $model := .Values.models }}
{{- range .adapters }}
  {{ printf "%s/%s=%s/%s" $model.name .version $mount .folder | toJson }},
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
{{- $name := include "vlm2vec.workerName" (dict "root" $root "model" $model) }}
{{- range $index := until (int $root.Values.replicas) }}
  {{ printf "%s=%s-%d.%s.%s.svc:50052" $model.name $name $index $name $root.Release.Namespace | toJson }},
{{- end }}
{{- end }}
]
{{- end }}
{{- end -}}

{{/* Options of `vlm2vec worker` among `settings`, as arguments. */}}
{{- define "vlm2vec.workerArgs" -}}
{{- $own := list "cuda-graphs" "dtype" "log-format" "log-level" "merged-bytes" "threads" "token-budget" "vision-batch-patches" "vision-cache-bytes" -}}
{{- range $key, $value := .Values.settings }}
{{- if not (has $key $own) }}
{{- else if kindIs "bool" $value }}
- --{{ if not $value }}no-{{ end }}{{ $key }}
{{- else }}
- --{{ $key }}={{ if kindIs "float64" $value }}{{ int64 $value }}{{ else }}{{ $value }}{{ end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Shell that downloads each of `items`, models and adapters, once. */}}
{{- define "vlm2vec.downloads" -}}
{{- $mount := .root.Values.modelCache.mountPath -}}
set -eu
mkdir -p {{ $mount }}/.downloaded
fetch() { # FOLDER REPOSITORY REVISION
  done="{{ $mount }}/.downloaded/$(echo "$1 $2 $3" | tr ' /' '__')"
  if [ -e "$done" ]; then
    echo "$1: there already"
    return
  fi
  hf download "$2" --revision "$3" --local-dir "{{ $mount }}/$1" \
    --include '*.json' --include '*.safetensors'
  touch "$done"
}
{{- range .items }}
{{- if .repository }}
fetch {{ squote .folder }} {{ squote .repository }} {{ .revision | default "main" | squote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The init container that downloads; none where there is nothing to. Takes root and items. */}}
{{- define "vlm2vec.initContainers" -}}
{{- $named := list -}}
{{- range .items }}{{ if .repository }}{{ $named = append $named .repository }}{{ end }}{{ end -}}
{{- $items := .items -}}
{{- with .root }}
{{- if and .Values.modelCache.download.enabled $named }}
initContainers:
  - name: download
    {{- include "vlm2vec.container" . | nindent 4 }}
    command: [sh, -c]
    args:
      - |
        {{- include "vlm2vec.downloads" (dict "root" . "items" $items) | nindent 8 }}
    env:
      - {name: HOME, value: /tmp}
      - {name: HF_HUB_DISABLE_TELEMETRY, value: "1"}
      {{- with .Values.modelCache.download.endpoint }}
      - {name: HF_ENDPOINT, value: {{ . | quote }}}
      {{- end }}
      {{- with .Values.modelCache.download.tokenSecret }}
      {{- if .name }}
      - name: HF_TOKEN
        valueFrom:
          secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
      {{- end }}
      {{- end }}
      {{- with .Values.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    resources: {{- toYaml .Values.modelCache.download.resources | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: models, mountPath: {{ .Values.modelCache.mountPath }}}
{{- end }}
{{- end }}
{{- end -}}
