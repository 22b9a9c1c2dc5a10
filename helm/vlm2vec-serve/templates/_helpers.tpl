{{- define "vlm2vec.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end -}}

{{/* Short enough for the longest suffix within 52 characters. A Service's name begins with a letter and has no
dots, which a release's may. */}}
{{- define "vlm2vec.fullname" -}}
{{- $name := include "vlm2vec.name" . -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $full := default $both .Values.fullnameOverride | replace "." "-" -}}
{{- if regexMatch "^[^a-z]" $full -}}{{- $full = printf "r%s" $full -}}{{- end -}}
{{- regexReplaceAll "-+$" (trunc 35 $full) "" -}}
{{- end -}}

{{- define "vlm2vec.selector" -}}
app.kubernetes.io/name: {{ include "vlm2vec.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "vlm2vec.labels" -}}
{{ include "vlm2vec.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{- define "vlm2vec.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ printf "%s@%s" .repository .digest | quote }}
{{- else -}}
{{ printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "vlm2vec.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "vlm2vec.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* Annotations of a Deployment; none where there are none. */}}
{{- define "vlm2vec.annotations" -}}
{{- with .Values.annotations -}}
annotations: {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* Labels and annotations of a pod that serves. Takes root, labels and annotations. */}}
{{- define "vlm2vec.podMetadata" -}}
labels:
  {{- include "vlm2vec.labels" .root | nindent 2 }}
  {{- toYaml .labels | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) .annotations .root.Values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
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

{{- define "vlm2vec.asksForCredentials" -}}
{{- if or .Values.auth.callers.secretName .Values.tls.clientCa (get .Values.settings "jwt-keys") }}yes{{ end -}}
{{- end -}}
