{{- define "lwplugin.name" -}}
{{- .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "lwplugin.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "lwplugin.selector" -}}
app.kubernetes.io/name: {{ include "lwplugin.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lwplugin.labels" -}}
{{ include "lwplugin.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "lwplugin.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "lwplugin.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "lwplugin.configMap" -}}
{{- .Values.config.existingConfigMap | default (include "lwplugin.fullname" .) -}}
{{- end -}}

{{- define "lwplugin.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s-controller" .Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{/* What must hold between values, which a schema cannot say. */}}
{{- define "lwplugin.validate" -}}
{{- if not .Values.webhook.existingSecret -}}
{{- fail "webhook.existingSecret is empty: unsigned deliveries are never accepted. Do: kubectl create secret generic lwplugin-webhook --from-literal=secret=…, and set webhook.existingSecret=lwplugin-webhook." -}}
{{- end -}}
{{- if not .Values.mlflow.trackingUri -}}
{{- fail "mlflow.trackingUri is empty. Do: set it to MLflow's address, as in http://mlflow.mlflow.svc:5000." -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.database.existingSecret) -}}
{{- fail (printf "replicas is %d and database.existingSecret is empty: replicas share their work through PostgreSQL. Do: set it, or replicas=1." (int .Values.replicas)) -}}
{{- end -}}
{{- if and .Values.reconcile.enabled (not .Values.database.existingSecret) (not .Values.store.existingClaim) -}}
{{- fail "reconcile.enabled needs a place that the CronJob shares with the service. Do: set database.existingSecret or store.existingClaim, or reconcile.enabled=false." -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.enabled needs ingress.host." -}}
{{- end -}}
{{- end -}}

{{- define "lwplugin.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "lwplugin.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "lwplugin.env" -}}
- name: MLFLOW_TRACKING_URI
  value: {{ .Values.mlflow.trackingUri | quote }}
- name: LWPLUGIN_STORE
  value: {{ .Values.store.path | quote }}
- name: LWPLUGIN_WEBHOOK_SECRET_FILE
  value: /run/secrets/lwplugin/webhook/secret
{{- if .Values.database.existingSecret }}
- name: LWPLUGIN_DATABASE_URL_FILE
  value: /run/secrets/lwplugin/database/url
{{- end }}
- name: HOME
  value: /tmp
- name: MPLCONFIGDIR
  value: /tmp/matplotlib
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "lwplugin.envFrom" -}}
{{- $secrets := .Values.envFromSecrets -}}
{{- if .Values.mlflow.existingSecret -}}
{{- $secrets = append $secrets .Values.mlflow.existingSecret -}}
{{- end -}}
{{- range $secrets }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- end -}}

{{- define "lwplugin.mounts" -}}
- {name: config, mountPath: /etc/lwplugin, readOnly: true}
- {name: webhook, mountPath: /run/secrets/lwplugin/webhook, readOnly: true}
{{- if .Values.database.existingSecret }}
- {name: database, mountPath: /run/secrets/lwplugin/database, readOnly: true}
{{- end }}
- {name: store, mountPath: {{ .Values.store.path | quote }}}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "lwplugin.volumes" -}}
- name: config
  configMap:
    name: {{ include "lwplugin.configMap" . }}
- name: webhook
  secret:
    secretName: {{ .Values.webhook.existingSecret }}
    items: [{key: {{ .Values.webhook.secretKey }}, path: secret}]
{{- if .Values.database.existingSecret }}
- name: database
  secret:
    secretName: {{ .Values.database.existingSecret }}
    items: [{key: {{ .Values.database.secretKey }}, path: url}]
{{- end }}
- name: store
{{- if .Values.store.existingClaim }}
  persistentVolumeClaim:
    claimName: {{ .Values.store.existingClaim }}
{{- else }}
  emptyDir: {}
{{- end }}
- name: tmp
  emptyDir: {}
{{- end -}}

{{- define "lwplugin.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
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
