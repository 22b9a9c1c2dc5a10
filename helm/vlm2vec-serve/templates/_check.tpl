{{/* What cannot be said in values.schema.json. Each failure names the value at fault. */}}
{{- define "vlm2vec.check" -}}
{{- include "vlm2vec.checkModels" . -}}
{{- include "vlm2vec.checkMaps" . -}}
{{- include "vlm2vec.checkScale" . -}}
{{- if has (include "vlm2vec.fullname" .) (list "true" "false" "null" "yes" "no" "on" "off" "y" "n") -}}
{{- fail "fullnameOverride: YAML reads this word as something else than a name" -}}
{{- end -}}
{{- with .Values -}}
{{- if and .tls.clientCa (not .tls.secretName) -}}
{{- fail "tls.clientCa needs tls.secretName" -}}
{{- end -}}
{{- if and .tls.secretName (not .http.enabled) -}}
{{- fail "http.enabled: needed with tls.secretName, since the kubelet's gRPC probes know no TLS" -}}
{{- end -}}
{{- if not (or .auth.allowAnonymous (include "vlm2vec.asksForCredentials" $)) -}}
{{- fail "auth: give auth.callers.secretName, tls.clientCa or settings.jwt-keys, or set auth.allowAnonymous: true" -}}
{{- end -}}
{{- if not (contains "health" (get .settings "without-credential" | default "health")) -}}
{{- fail "settings.without-credential: health has to be among it, since probes have no credentials" -}}
{{- end -}}
{{- if and .ingress.enabled (not .ingress.host) -}}
{{- fail "ingress.host: needed with ingress.enabled" -}}
{{- end -}}
{{- if and .ingress.enabled (eq .ingress.port "http") (not .http.enabled) -}}
{{- fail "ingress.port: http needs http.enabled" -}}
{{- end -}}
{{- if and .registry.webhookSecret.name (not .http.enabled) -}}
{{- fail "registry.webhookSecret.name needs http.enabled" -}}
{{- end -}}
{{- range $route := list "grpcRoute" "httpRoute" -}}
{{- $given := index $.Values $route -}}
{{- if and $given.enabled (not $given.parentRefs) -}}
{{- fail (printf "%s.parentRefs: needed with %s.enabled" $route $route) -}}
{{- end -}}
{{- end -}}
{{- if and .httpRoute.enabled (not .http.enabled) -}}
{{- fail "httpRoute.enabled needs http.enabled" -}}
{{- end -}}
{{- if and .backendTlsPolicy.enabled (not (and .tls.secretName .backendTlsPolicy.hostname .backendTlsPolicy.caConfigMap)) -}}
{{- fail "backendTlsPolicy needs tls.secretName, and its hostname and caConfigMap" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "vlm2vec.checkModels" -}}
{{- $registry := include "vlm2vec.registryUri" . -}}
{{- $names := list -}}
{{- range $index, $model := .Values.models -}}
{{- $where := printf "models[%d] (%s)" $index $model.name -}}
{{- if has $model.name $names -}}
{{- fail (printf "%s: another model has this name" $where) -}}
{{- end -}}
{{- $names = append $names $model.name -}}
{{- if and $registry (or $model.adapters $model.aliases) -}}
{{- fail (printf "%s: adapters and aliases come from the registry alone; leave them out, or registry.uri" $where) -}}
{{- end -}}
{{- if and $model.worker (not $.Values.split.enabled) -}}
{{- fail (printf "%s: worker needs split.enabled" $where) -}}
{{- end -}}
{{- $versions := list "base" -}}
{{- range $item := concat (list $model) ($model.adapters | default list) -}}
{{- if $item.version -}}
{{- $where = printf "models[%d] (%s), version %s" $index $model.name $item.version -}}
{{- if has $item.version $versions -}}
{{- fail (printf "%s: there is one of this name already" $where) -}}
{{- end -}}
{{- $versions = append $versions $item.version -}}
{{- end -}}
{{- if not (or $item.folder $item.repository) -}}
{{- fail (printf "%s: needs a folder, of files that are there, or a repository, which is downloaded" $where) -}}
{{- end -}}
{{- if and $item.folder $item.repository -}}
{{- fail (printf "%s: has a folder and a repository; what is downloaded has a folder of its own for each revision" $where) -}}
{{- end -}}
{{- if and $item.revision (not $item.repository) -}}
{{- fail (printf "%s: revision needs a repository" $where) -}}
{{- end -}}
{{- end -}}
{{- range $alias, $version := $model.aliases -}}
{{- if not (has $version $versions) -}}
{{- fail (printf "models[%d] (%s): alias %s is version %s, which is not among its adapters" $index $model.name $alias $version) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Maps and lists that are added to ours: what is ours already cannot be given again. */}}
{{- define "vlm2vec.checkMaps" -}}
{{- $labels := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" "vlm2vec/model" -}}
{{- range $key, $_ := .Values.podLabels -}}
{{- if has $key $labels -}}{{- fail (printf "podLabels: %s is the chart's own, by which pods are found" $key) -}}{{- end -}}
{{- end -}}
{{- range $key, $_ := .Values.monitoring.labels -}}
{{- if has $key $labels -}}{{- fail (printf "monitoring.labels: %s is the chart's own" $key) -}}{{- end -}}
{{- end -}}
{{- if hasKey .Values.podAnnotations "checksum/config" -}}
{{- fail "podAnnotations: checksum/config is the chart's own, which rolls out a changed configuration" -}}
{{- end -}}
{{- $env := list "HOME" "HF_HUB_DISABLE_TELEMETRY" "HF_XET_CHUNK_CACHE_SIZE_BYTES" "HF_ENDPOINT" "HF_TOKEN" "MODELS" "KEEP" "SECONDS_AT_MOST" "MLFLOW_TRACKING_USERNAME" "MLFLOW_TRACKING_PASSWORD" -}}
{{- include "vlm2vec.checkNames" (dict "value" "extraEnv" "items" .Values.extraEnv "taken" $env) -}}
{{- $volumes := list "tmp" "models" "config" "registry" "tls" "auth" "webhook" "mlflow-credentials" -}}
{{- include "vlm2vec.checkNames" (dict "value" "extraVolumes" "items" .Values.extraVolumes "taken" $volumes) -}}
{{- include "vlm2vec.checkNames" (dict "value" "extraContainers" "items" .Values.extraContainers "taken" (list "server" "worker" "download")) -}}
{{- include "vlm2vec.checkNames" (dict "value" "initContainers" "items" .Values.initContainers "taken" (list "server" "worker" "download")) -}}
{{- end -}}

{{/* Takes value, items and taken, the names that none of them may have. */}}
{{- define "vlm2vec.checkNames" -}}
{{- $taken := .taken -}}
{{- range .items -}}
{{- if has .name $taken -}}
{{- fail (printf "%s: %s is there already, by the chart or given twice" $.value .name) -}}
{{- end -}}
{{- $taken = append $taken .name -}}
{{- end -}}
{{- end -}}

{{- define "vlm2vec.checkScale" -}}
{{- with .Values -}}
{{- if gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and .split.enabled (gt (int .gpu.count) 1) -}}
{{- fail "gpu.count: a worker that is split off has one device; give more replicas instead" -}}
{{- end -}}
{{- $pods := ternary .replicas .autoscaling.maxReplicas (eq .autoscaling.kind "none") -}}
{{- if and (eq (include "vlm2vec.oneNode" $) "yes") (or .split.enabled (gt (int $pods) 1)) -}}
{{- fail "modelCache.persistentVolumeClaim.accessModes: pods on several nodes need ReadWriteMany; without it replicas has to be 1, without split.enabled and autoscaling" -}}
{{- end -}}
{{- if and .podDisruptionBudget.minAvailable .podDisruptionBudget.maxUnavailable -}}
{{- fail "podDisruptionBudget: minAvailable or maxUnavailable, not both" -}}
{{- end -}}
{{- if .split.enabled -}}
{{- range $index, $model := .models -}}
{{- $worker := include "vlm2vec.worker" (dict "root" $ "model" $model) | fromJson -}}
{{- if gt (int $worker.minReplicas) (int $worker.maxReplicas) -}}
{{- fail (printf "models[%d] (%s): minReplicas of its workers is above maxReplicas" $index $model.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
