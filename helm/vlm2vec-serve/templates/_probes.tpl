{{/* A whole server has started when every model is ready or known not to get so, and is ready while any is: no rollout
goes on before a model is loaded, and one that is broken takes no other's traffic away. A front end by itself has nothing to wait for, and where workers may be
none it has to be there to see that some are needed. Liveness asks for the process alone, which starts workers again
itself. The kubelet's gRPC probes know no TLS, its HTTP probes do. */}}
{{- define "vlm2vec.serverProbes" -}}
{{- $live := include "vlm2vec.probe" (dict "root" . "path" "/healthz" "service" "liveness") -}}
{{- $ready := include "vlm2vec.probe" (dict "root" . "path" "/readyz" "service" "") -}}
{{- $started := include "vlm2vec.probe" (dict "root" . "path" "/startupz" "service" "startup") -}}
startupProbe:
  {{ ternary $live $started .Values.split.enabled }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add .Values.startupSeconds 4) 5 }}
readinessProbe:
  {{ ternary $live $ready (eq (include "vlm2vec.fromZero" .) "yes") }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  {{ $live }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}

{{/* How the kubelet asks. Takes root, path and service. */}}
{{- define "vlm2vec.probe" -}}
{{- if .root.Values.tls.secretName -}}
httpGet: {path: {{ .path | quote }}, port: http, scheme: HTTPS}
{{- else if .service -}}
grpc: {port: 50051, service: {{ .service | quote }}}
{{- else -}}
grpc: {port: 50051}
{{- end -}}
{{- end -}}
