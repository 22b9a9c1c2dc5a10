{{/* The part of a pod that is the same for all: no token, no rights. */}}
{{- define "vlm2vec.pod" -}}
serviceAccountName: {{ include "vlm2vec.serviceAccountName" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . | quote }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The part of a container that is the same for all. */}}
{{- define "vlm2vec.container" -}}
image: {{ include "vlm2vec.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Takes root and labels, which tell one kind of pods from others. */}}
{{- define "vlm2vec.topologySpread" -}}
{{- with .root.Values.topologySpread }}
{{- if .enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .topologyKey | quote }}
    whenUnsatisfiable: {{ .whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "vlm2vec.selector" $.root | nindent 8 }}
        {{- toYaml $.labels | nindent 8 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where pods may run, by nodeSelector, tolerations and affinity of what it is given. */}}
{{- define "vlm2vec.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "vlm2vec.runtimeClass" -}}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
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
  # A folder that Kubernetes would make belongs to root, and nobody could download into it.
  hostPath: {path: {{ .hostPath | quote }}, type: Directory}
  {{- else if eq .type "emptyDir" }}
  emptyDir: {sizeLimit: {{ .sizeLimit | quote }}}
  {{- else }}
  persistentVolumeClaim:
    claimName: {{ .persistentVolumeClaim.existingClaim | default (printf "%s-models" (include "vlm2vec.fullname" $)) | quote }}
  {{- end }}
  {{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes root and whether the models may be written. */}}
{{- define "vlm2vec.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: models, mountPath: {{ .root.Values.modelCache.mountPath | quote }}, readOnly: {{ not .writable }}}
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* How a Deployment of pods with a device replaces them. Takes root and the least number of pods. A GPU in use is
free for nobody: where there are other pods, one of them goes first. So it is where one node alone has the models. */}}
{{- define "vlm2vec.strategy" -}}
{{- $zero := list "0" "0%" -}}
{{- $surge := toString .root.Values.rollout.maxSurge -}}
{{- $unavailable := toString .root.Values.rollout.maxUnavailable -}}
{{- if and (eq $surge "") (eq $unavailable "") -}}
{{- $scarce := and (eq .root.Values.device "cuda") (gt (int .least) 1) -}}
{{- $surge = ternary "0" "1" (or $scarce (eq (include "vlm2vec.oneNode" .root) "yes")) -}}
{{- else if eq $surge "" -}}
{{- $surge = ternary "1" "0" (has $unavailable $zero) -}}
{{- end -}}
{{- if eq $unavailable "" -}}
{{- $unavailable = ternary "1" "0" (has $surge $zero) -}}
{{- end -}}
{{- if and (has $surge $zero) (has $unavailable $zero) -}}
{{- fail "rollout: maxSurge and maxUnavailable are both 0, so that no pod could be replaced" -}}
{{- end -}}
strategy:
  type: RollingUpdate
  rollingUpdate: {maxSurge: {{ $surge }}, maxUnavailable: {{ $unavailable }}}
{{- end -}}

{{/* Seconds without progress after which a rollout has failed: scheduling and pulling, downloads, the start. */}}
{{- define "vlm2vec.progressSeconds" -}}
{{- $downloads := ternary .Values.modelCache.download.seconds 0 .Values.modelCache.download.enabled -}}
{{ add 600 $downloads .Values.startupSeconds }}
{{- end -}}

{{/* The number of pods: fixed or, where they are scaled, what there are now: a number that is left out is 1. Takes
root, name, fixed, least and scaled. */}}
{{- define "vlm2vec.replicas" -}}
{{- if .scaled -}}
{{- $live := lookup "apps/v1" "Deployment" .root.Release.Namespace .name | default dict -}}
replicas: {{ dig "spec" "replicas" .least $live }}
{{- else -}}
replicas: {{ .fixed }}
{{- end -}}
{{- end -}}

{{/* yes where the models lie on a volume that one node alone can mount. */}}
{{- define "vlm2vec.oneNode" -}}
{{- with .Values.modelCache -}}
{{- if and (eq .type "persistentVolumeClaim") (not .persistentVolumeClaim.existingClaim) -}}
{{- if not (has "ReadWriteMany" .persistentVolumeClaim.accessModes) }}yes{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
