{{- define "vlm2vec.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for the longest suffix within 63 characters. */}}
{{- define "vlm2vec.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "vlm2vec.selector" -}}
app.kubernetes.io/name: {{ include "vlm2vec.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "vlm2vec.labels" -}}
{{ include "vlm2vec.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "vlm2vec.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "vlm2vec.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "vlm2vec.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* The part of a pod that is the same for all: no token, no rights. */}}
{{- define "vlm2vec.pod" -}}
serviceAccountName: {{ include "vlm2vec.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The part of a container that is the same for all. */}}
{{- define "vlm2vec.container" -}}
image: {{ include "vlm2vec.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "vlm2vec.topologySpread" -}}
{{- with .root.Values.topologySpread }}
{{- if .enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .topologyKey }}
    whenUnsatisfiable: {{ .whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "vlm2vec.selector" $.root | nindent 8 }}
        app.kubernetes.io/component: {{ $.component }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where pods with a device may run. */}}
{{- define "vlm2vec.devicePlacement" -}}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
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
{{- end -}}

{{/* Devices of a server's pod that is not split, each with a worker of every model. */}}
{{- define "vlm2vec.deviceCount" -}}
{{ ternary 1 .Values.gpu.count (eq .Values.device "cpu") }}
{{- end -}}

{{/* MiB of the batches on their way to one worker; docs/operations.md has this and the next formula. */}}
{{- define "vlm2vec.batchesMiB" -}}
{{- $default := ternary 2048 16384 (eq .Values.device "cpu") -}}
{{- $budget := int64 (dig "token-budget" 0 .Values.settings) -}}
{{- $tokens := max (ternary $budget $default (gt $budget 0)) (int64 (dig "max-tokens" 8192 .Values.settings)) -}}
{{- div (mul 2 3 4704 $tokens) 1048576 -}}
{{- end -}}

{{/* Requested and most MiB of a front end, as YAML. */}}
{{- define "vlm2vec.frontEndMiB" -}}
{{- $received := int64 (dig "max-received-bytes" 1073741824 .Values.settings) -}}
{{- $prepared := int64 (dig "max-prepared-bytes" 1073741824 .Values.settings) -}}
{{- $pixels := int64 (dig "max-image-pixels" 50000000 .Values.settings) -}}
{{- $threads := add 2 (int64 (dig "preprocess-threads" 4 .Values.settings)) -}}
{{- $held := div (add $received $prepared) 1048576 -}}
{{- $decoding := div (mul 20 $threads $pixels) 1048576 -}}
{{- $each := ternary .Values.replicas (include "vlm2vec.deviceCount" . | int) .Values.split.enabled -}}
{{- $batches := mul (len .Values.models) $each (include "vlm2vec.batchesMiB" .) -}}
requests: {{ add 512 (div $held 2) }}
limits: {{ add 512 $held $decoding $batches }}
{{- end -}}

{{/* Requested and most MiB of one worker, as YAML. */}}
{{- define "vlm2vec.workerMiB" -}}
{{- $own := mul 1024 .Values.memory.workerGiB -}}
requests: {{ $own }}
limits: {{ add $own (include "vlm2vec.batchesMiB" .) }}
{{- end -}}

{{/* Resources with the memory that the given ones leave out. Takes resources, devices and memory, in MiB. */}}
{{- define "vlm2vec.resources" -}}
{{- range $part := list "requests" "limits" }}
{{- $computed := dict "memory" (printf "%dMi" (int64 (index $.memory $part))) -}}
{{- $given := index $.resources $part | default dict }}
{{ $part }}: {{- merge (dict) $given $.devices $computed | toYaml | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "vlm2vec.deviceResources" -}}
{{- $devices := ternary (dict .Values.gpu.resource .Values.gpu.count) dict (eq .Values.device "cuda") -}}
{{- $memory := include "vlm2vec.workerMiB" . | fromYaml -}}
{{- if not .Values.split.enabled -}}
{{- $workers := mul (len .Values.models) (include "vlm2vec.deviceCount" .) -}}
{{- range $part, $own := include "vlm2vec.frontEndMiB" . | fromYaml -}}
{{- $memory = set $memory $part (add $own (mul $workers (index $memory $part))) -}}
{{- end -}}
{{- end -}}
{{- include "vlm2vec.resources" (dict "resources" .Values.resources "devices" $devices "memory" $memory) -}}
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

{{- define "vlm2vec.env" -}}
- {name: HOME, value: /tmp}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Volumes that front ends and workers share. */}}
{{- define "vlm2vec.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
- name: models
  {{- with .Values.modelCache }}
  {{- if eq .type "hostPath" }}
  hostPath: {path: {{ .hostPath | quote }}, type: DirectoryOrCreate}
  {{- else if eq .type "emptyDir" }}
  emptyDir: {sizeLimit: {{ .sizeLimit }}}
  {{- else }}
  persistentVolumeClaim:
    claimName: {{ .persistentVolumeClaim.existingClaim | default (printf "%s-models" (include "vlm2vec.fullname" $)) }}
  {{- end }}
  {{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes root and whether the models may be written. */}}
{{- define "vlm2vec.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: models, mountPath: {{ .root.Values.modelCache.mountPath }}, readOnly: {{ not .writable }}}
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "vlm2vec.registryUri" -}}
{{- if .Values.registry.uri -}}
{{ .Values.registry.uri }}
{{- else if .Values.mlflow.enabled -}}
http://{{ include "vlm2vec.fullname" . }}-mlflow:5000
{{- end -}}
{{- end -}}

{{- define "vlm2vec.registryCache" -}}
{{- if eq .Values.registry.cache.type "modelCache" -}}
{{ .Values.modelCache.mountPath }}/.registry
{{- else -}}
/var/cache/vlm2vec
{{- end -}}
{{- end -}}

{{/* The StatefulSet of a model's workers: takes root and model. */}}
{{- define "vlm2vec.workerName" -}}
{{- printf "%s-worker-%s" (include "vlm2vec.fullname" .root) (.model.name | lower | replace "." "-" | replace "_" "-") | trunc 57 | trimSuffix "-" -}}
{{- end -}}

{{- define "vlm2vec.asksForCredentials" -}}
{{- if or .Values.auth.callers.secretName .Values.tls.clientCa (get .Values.settings "jwt-keys") }}yes{{ end -}}
{{- end -}}

{{/* What cannot be said in values.schema.json. */}}
{{- define "vlm2vec.check" -}}
{{- with .Values -}}
{{- if and .split.enabled (eq .autoscaling.kind "keda") -}}
{{- fail "autoscaling.kind: keda scales whole servers; with split.enabled use hpa, which scales front ends by CPU" -}}
{{- end -}}
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
{{- if and .grpcRoute.enabled (not .grpcRoute.parentRefs) -}}
{{- fail "grpcRoute.parentRefs: needed with grpcRoute.enabled" -}}
{{- end -}}
{{- if gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- end -}}
{{- end -}}
