{{- define "anyscale-operator.labels" -}}
app.kubernetes.io/name: anyscale-operator
app.kubernetes.io/part-of: anyscale-core
{{- end -}}
{{- define "anyscale-operator.secret" -}}
{{- .Values.tokenSecret | default "anyscale-operator" -}}
{{- end -}}
{{- define "anyscale-operator.settings" -}}
{{- $own := merge (dict "namespace" .Release.Namespace) (default dict .Values.settings.kubernetes) -}}
{{- toYaml (merge (dict "kubernetes" $own) .Values.settings) -}}
{{- end -}}
