{{/* Start and readiness ask whether every model has a worker with its adapters; liveness asks for the process
alone, which starts workers again itself. */}}
{{- define "vlm2vec.serverProbes" -}}
startupProbe:
  grpc: {port: 50051}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add .Values.startupSeconds 4) 5 }}
readinessProbe:
  grpc: {port: 50051}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  grpc: {port: 50051, service: liveness}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}
