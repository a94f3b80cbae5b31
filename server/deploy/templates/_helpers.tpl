{{- define "lap.name" -}}
{{- if contains "lap" .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{- else -}}{{ printf "%s-lap" .Release.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "lap.selector" -}}
app.kubernetes.io/name: lap
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lap.labels" -}}
{{ include "lap.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "lap.egress.selector" -}}
app.kubernetes.io/name: lap-egress
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lap.egress.labels" -}}
{{ include "lap.egress.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "lap.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
