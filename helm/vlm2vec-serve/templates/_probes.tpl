{{/* Start and readiness ask whether every model has a worker with its adapters; liveness asks for the process
alone, which starts workers again itself. The kubelet's gRPC probes know no TLS, its HTTP probes do. */}}
{{- define "vlm2vec.serverProbes" -}}
{{- $tls := not (empty .Values.tls.secretName) -}}
{{- $ready := ternary "httpGet: {path: /readyz, port: http, scheme: HTTPS}" "grpc: {port: 50051}" $tls -}}
{{- $live := ternary "httpGet: {path: /healthz, port: http, scheme: HTTPS}" "grpc: {port: 50051, service: liveness}" $tls -}}
startupProbe:
  {{ $ready }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add .Values.startupSeconds 4) 5 }}
readinessProbe:
  {{ $ready }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  {{ $live }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}
