{{/* Where a model or an adapter lies. Takes root and item. What is downloaded has a folder for each revision. */}}
{{- define "vlm2vec.folder" -}}
{{- .root.Values.modelCache.mountPath -}}/
{{- if .item.repository -}}
{{ .item.repository }}@{{ .item.revision | default "main" | replace "/" "+" }}
{{- else -}}
{{ .item.folder }}
{{- end -}}
{{- end -}}

{{/* Models with their adapters, as a list in JSON: what a front end reads. */}}
{{- define "vlm2vec.items" -}}
{{- $items := list -}}
{{- range .Values.models -}}
{{- $items = concat $items (list .) (.adapters | default list) -}}
{{- end -}}
{{ $items | toJson }}
{{- end -}}

{{/* The init container that downloads, and those of initContainers; nothing where there are none. Takes root and
items. */}}
{{- define "vlm2vec.initContainers" -}}
{{- $sources := list -}}
{{- range .items }}
{{- if .repository }}{{ $sources = append $sources (printf "%s@%s" .repository (.revision | default "main")) }}{{ end -}}
{{- end -}}
{{- with .root }}
{{- $download := and .Values.modelCache.download.enabled $sources }}
{{- if or $download .Values.initContainers }}
initContainers:
  {{- if $download }}
  - name: download
    {{- include "vlm2vec.container" . | nindent 4 }}
    command: [sh, -c]
    args:
      - |
        {{- .Files.Get "files/download.sh" | nindent 8 }}
      - download
      {{- uniq $sources | toYaml | nindent 6 }}
    env:
      - {name: HOME, value: /tmp}
      - {name: HF_HUB_DISABLE_TELEMETRY, value: "1"}
      # It would fill /tmp, whose size is limited.
      - {name: HF_XET_CHUNK_CACHE_SIZE_BYTES, value: "0"}
      - {name: MODELS, value: {{ .Values.modelCache.mountPath | quote }}}
      - {name: KEEP, value: {{ .Values.modelCache.download.keepRevisions | quote }}}
      - {name: SECONDS_AT_MOST, value: {{ .Values.modelCache.download.seconds | quote }}}
      {{- with .Values.modelCache.download.endpoint }}
      - {name: HF_ENDPOINT, value: {{ . | quote }}}
      {{- end }}
      {{- with .Values.modelCache.download.tokenSecret }}
      {{- if .name }}
      - name: HF_TOKEN
        valueFrom:
          secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}
      {{- end }}
      {{- end }}
      {{- with .Values.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    resources: {{- toYaml .Values.modelCache.download.resources | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: models, mountPath: {{ .Values.modelCache.mountPath | quote }}}
  {{- end }}
  {{- with .Values.initContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}
