{{/* The Deployment and Service of a model's workers. Takes root and model. What a Kubernetes name cannot say of the
model's, a digest does. */}}
{{- define "vlm2vec.workerName" -}}
{{- $plain := .model.name | lower | replace "." "-" | replace "_" "-" -}}
{{- $name := printf "%s-worker-%s" (include "vlm2vec.fullname" .root) $plain -}}
{{- if or (ne $plain .model.name) (gt (len $name) 52) -}}
{{- $name = printf "%s-%s" (trunc 43 $name | trimSuffix "-") (sha256sum .model.name | trunc 8) -}}
{{- end -}}
{{ $name }}
{{- end -}}

{{/* What a model's workers are to be, as JSON: its own `worker` before the values of all. Takes root and model. */}}
{{- define "vlm2vec.worker" -}}
{{- $all := .root.Values -}}
{{- $worker := dict "replicas" $all.replicas "gpuResource" $all.gpu.resource "memoryGiB" $all.memory.workerGiB -}}
{{- range $key := list "resources" "nodeSelector" "tolerations" "affinity" -}}
{{- $worker = set $worker $key (get $all $key) -}}
{{- end -}}
{{- range $key, $value := $all.autoscaling.workers -}}{{- $worker = set $worker $key $value -}}{{- end -}}
{{- range $key, $value := .model.worker -}}{{- $worker = set $worker $key $value -}}{{- end -}}
{{- set $worker "scaled" (eq $all.autoscaling.kind "keda") | toJson -}}
{{- end -}}

{{/* yes where a model's workers may be none. */}}
{{- define "vlm2vec.fromZero" -}}
{{- $found := "" -}}
{{- if .Values.split.enabled -}}
{{- range $model := .Values.models -}}
{{- $worker := include "vlm2vec.worker" (dict "root" $ "model" $model) | fromJson -}}
{{- if and $worker.scaled (eq (int $worker.minReplicas) 0) -}}{{- $found = "yes" -}}{{- end -}}
{{- end -}}
{{- end -}}
{{ $found }}
{{- end -}}

{{/* Labels of a model's workers. */}}
{{- define "vlm2vec.workerLabels" -}}
app.kubernetes.io/component: worker
vlm2vec/model: {{ .name | quote }}
{{- end -}}

{{/* Options of `vlm2vec worker` among `settings`, as arguments. Takes root, and threads if they are computed. */}}
{{- define "vlm2vec.workerArgs" -}}
{{- $own := list "cuda-graphs" "dtype" "log-format" "log-level" "merged-bytes" "threads" "token-budget" "vision-batch-patches" "vision-cache-bytes" -}}
{{- range $key, $value := .root.Values.settings }}
{{- if not (has $key $own) }}
{{- else if kindIs "bool" $value }}
- --{{ if not $value }}no-{{ end }}{{ $key }}
{{- else }}
- {{ printf "--%s=%v" $key (ternary (printf "%d" (int64 $value)) $value (kindIs "float64" $value)) | quote }}
{{- end }}
{{- end }}
{{- with .threads }}
- --threads={{ . }}
{{- end }}
{{- end -}}
