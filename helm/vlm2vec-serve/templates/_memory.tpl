{{/* Devices of a server's pod that is not split, each with a worker of every model. */}}
{{- define "vlm2vec.deviceCount" -}}
{{ ternary 1 .Values.gpu.count (eq .Values.device "cpu") }}
{{- end -}}

{{/* MiB of the batches on their way to one worker; docs/operations.md has this and the next formula. */}}
{{- define "vlm2vec.batchesMiB" -}}
{{- $default := ternary 2048 16384 (eq .Values.device "cpu") -}}
{{- $budget := int64 (dig "token-budget" 0 .Values.settings) -}}
{{- $tokens := max (ternary $budget $default (gt $budget 0)) (int64 (dig "max-tokens" 8192 .Values.settings)) -}}
{{- div (mul 2 3 6144 $tokens) 1048576 -}}
{{- end -}}

{{/* The most workers that one front end may have. */}}
{{- define "vlm2vec.workerCount" -}}
{{- $count := 0 -}}
{{- range $model := .Values.models -}}
{{- if $.Values.split.enabled -}}
{{- $worker := include "vlm2vec.worker" (dict "root" $ "model" $model) | fromJson -}}
{{- $count = add $count (ternary $worker.maxReplicas $worker.replicas $worker.scaled) -}}
{{- else -}}
{{- $count = add $count (include "vlm2vec.deviceCount" $) -}}
{{- end -}}
{{- end -}}
{{ $count }}
{{- end -}}

{{/* Requested and most MiB of a front end, as YAML. */}}
{{- define "vlm2vec.frontEndMiB" -}}
{{- $received := int64 (dig "max-received-bytes" 1073741824 .Values.settings) -}}
{{- $prepared := int64 (dig "max-prepared-bytes" 1073741824 .Values.settings) -}}
{{- $pixels := int64 (dig "max-image-pixels" 50000000 .Values.settings) -}}
{{- $threads := add 2 (int64 (dig "preprocess-threads" 4 .Values.settings)) -}}
{{- $held := div (add $received $prepared) 1048576 -}}
{{- $decoding := div (mul 20 $threads $pixels) 1048576 -}}
{{- $batches := mul (include "vlm2vec.workerCount" .) (include "vlm2vec.batchesMiB" .) -}}
requests: {{ add 512 (div $held 2) }}
limits: {{ add 512 $held $decoding $batches }}
{{- end -}}

{{/* Requested and most MiB of one worker, as YAML. Takes root and GiB. */}}
{{- define "vlm2vec.workerMiB" -}}
{{- $own := mul 1024 .GiB -}}
requests: {{ $own }}
limits: {{ add $own (include "vlm2vec.batchesMiB" .root) }}
{{- end -}}

{{/* MiB of a quantity, as 2Gi; 0 for one of less. */}}
{{- define "vlm2vec.MiB" -}}
{{- $bytes := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $unit := regexFind "[A-Za-z]*$" (toString .) -}}
{{- divf (mulf (trimSuffix $unit (toString .) | float64) (get $bytes $unit | default 0)) 1048576 | floor | int64 -}}
{{- end -}}

{{/* Disk that a pod takes from its node: the limits of its emptyDir volumes, /tmp among them. Takes root and registry,
whether it keeps a cache of its own. */}}
{{- define "vlm2vec.diskMiB" -}}
{{- $disk := 2048 -}}
{{- with .root.Values -}}
{{- if eq .modelCache.type "emptyDir" -}}{{- $disk = add $disk (include "vlm2vec.MiB" .modelCache.sizeLimit) -}}{{- end -}}
{{- if $.registry -}}{{- $disk = add $disk (include "vlm2vec.MiB" .registry.cache.sizeLimit) -}}{{- end -}}
{{- end -}}
{{ $disk }}
{{- end -}}

{{/* Resources with what the given ones leave out. Takes resources, devices, memory in MiB, and disk in MiB. */}}
{{- define "vlm2vec.resources" -}}
{{- range $part := list "requests" "limits" }}
{{- $computed := dict "memory" (printf "%dMi" (int64 (index $.memory $part))) -}}
{{- if eq $part "requests" }}{{ $computed = set $computed "ephemeral-storage" (printf "%dMi" (int64 $.disk)) }}{{ end -}}
{{- $given := index $.resources $part | default dict }}
{{ $part }}: {{- merge (dict) $given $.devices $computed | toYaml | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Resources of a whole server's pod. */}}
{{- define "vlm2vec.serverResources" -}}
{{- $devices := ternary (dict .Values.gpu.resource .Values.gpu.count) dict (eq .Values.device "cuda") -}}
{{- $memory := include "vlm2vec.workerMiB" (dict "root" . "GiB" .Values.memory.workerGiB) | fromYaml -}}
{{- $workers := include "vlm2vec.workerCount" . -}}
{{- range $part, $own := include "vlm2vec.frontEndMiB" . | fromYaml -}}
{{- $memory = set $memory $part (add $own (mul $workers (index $memory $part))) -}}
{{- end -}}
{{- include "vlm2vec.resources" (dict "resources" .Values.resources "devices" $devices "memory" $memory "disk" (include "vlm2vec.disk" .)) -}}
{{- end -}}

{{/* Disk of a pod with a front end. */}}
{{- define "vlm2vec.disk" -}}
{{- $registry := and (include "vlm2vec.registryUri" .) (eq .Values.registry.cache.type "emptyDir") -}}
{{- include "vlm2vec.diskMiB" (dict "root" . "registry" $registry) -}}
{{- end -}}

{{/* cuda, or cuda:0,cuda:1,… */}}
{{- define "vlm2vec.device" -}}
{{- $count := int .Values.gpu.count -}}
{{- if or (eq .Values.device "cpu") (eq $count 1) -}}
{{ .Values.device }}
{{- else -}}
{{- range $index := until $count }}{{ if $index }},{{ end }}cuda:{{ $index }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Threads of a worker on a CPU where no limit says how many cores there are, which the server would see: those
requested, but for one of the front end if it is among them. Empty elsewhere. Takes root, resources, workers, and
spare, the cores that are not the workers'. */}}
{{- define "vlm2vec.threads" -}}
{{- $limited := hasKey (.resources.limits | default dict) "cpu" -}}
{{- $requested := toString (dig "requests" "cpu" "" .resources) -}}
{{- if and (eq .root.Values.device "cpu") (not (hasKey .root.Values.settings "threads")) (not $limited) (ne $requested "") -}}
{{- $cores := ternary (div (trimSuffix "m" $requested | int64) 1000) ($requested | float64 | floor | int64) (hasSuffix "m" $requested) -}}
{{- max 1 (div (sub $cores .spare) .workers) -}}
{{- end -}}
{{- end -}}
