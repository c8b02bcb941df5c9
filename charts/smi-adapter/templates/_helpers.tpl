{{- define "smi-adapter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{/* 50 characters at most: the longest suffix, -xds-headless or -prometheus, and a pod's hash must still fit. */}}
{{- define "smi-adapter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "smi-adapter.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "smi-adapter.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* What cluster-wide objects are called: two releases must not fight over one. */}}
{{- define "smi-adapter.clusterName" -}}
{{- if eq .Release.Namespace (include "smi-adapter.fullname" .) -}}
{{- include "smi-adapter.fullname" . -}}
{{- else -}}
{{- printf "%s-%s" .Release.Namespace (include "smi-adapter.fullname" .) | trunc 100 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "smi-adapter.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "smi-adapter.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "smi-adapter.selector" -}}
app.kubernetes.io/name: {{ include "smi-adapter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "smi-adapter.labels" -}}
{{ include "smi-adapter.selector" . }}
{{ include "smi-adapter.commonLabels" . }}
{{- end }}

{{/* For pods that no Service may find: these, and a name of their own. */}}
{{- define "smi-adapter.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: smi-adapter
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "smi-adapter.image" -}}
{{- with .Values.image.registry }}{{ . }}/{{ end -}}
{{- .Values.image.repository -}}
{{- if .Values.image.digest -}}
@{{ .Values.image.digest }}
{{- else -}}
:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "smi-adapter.webhooks" -}}
{{- if or .Values.webhooks.validating.enabled .Values.webhooks.conversion.enabled }}true{{ end -}}
{{- end }}

{{/* The names of the CRDs, as the files are called. */}}
{{- define "smi-adapter.crdNames" -}}
{{- range $path, $_ := .Files.Glob "files/crds/*.yaml" }}
- {{ base $path | trimSuffix ".yaml" }}
{{- end }}
{{- end }}

{{- define "smi-adapter.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Where any of our pods may run, and as whom. */}}
{{- define "smi-adapter.scheduling" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "smi-adapter.podSecurity" . | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "smi-adapter.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What the Job before a release goes needs, and nobody else. */}}
{{- define "smi-adapter.uninstallHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: "-5"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}

{{/* What the controller reads and writes wherever it looks: one list for the ClusterRole and for Roles. */}}
{{- define "smi-adapter.meshRules" -}}
- apiGroups: [""]
  resources: [serviceaccounts, services]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [access.smi-spec.io]
  resources: [identitybindings, traffictargets]
  verbs: [get, list, watch]
- apiGroups: [access.smi-spec.io]
  resources: [identitybindings/status, traffictargets/status]
  verbs: [patch]
- apiGroups: [specs.smi-spec.io]
  resources: [httproutegroups, tcproutes, udproutes]
  verbs: [get, list, watch]
- apiGroups: [specs.smi-spec.io]
  resources: [httproutegroups/status, tcproutes/status, udproutes/status]
  verbs: [patch]
- apiGroups: [split.smi-spec.io]
  resources: [trafficsplits]
  verbs: [get, list, watch]
- apiGroups: [split.smi-spec.io]
  resources: [trafficsplits/status]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, get, patch]
{{- include "smi-adapter.backendRules" . }}
{{- end }}

{{/* The kinds of the selected backend, and those of a former one to delete them. Envoy's configuration goes out by xDS:
no right at all. */}}
{{- define "smi-adapter.backendRules" -}}
{{- if eq .Values.settings.backend "gateway_api" }}
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes, tcproutes]
  verbs: [create, delete, get, list, patch]
{{- else if has "gateway_api" (.Values.settings.formerBackends | default list) }}
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes, tcproutes]
  verbs: [delete, list]
{{- end }}
{{- end }}

{{/* The settings as the controller reads them (smi_adapter/settings.py); a test holds the names equal. */}}
{{- define "smi-adapter.environment" -}}
{{- $name := include "smi-adapter.fullname" . -}}
- name: SMI_ADAPTER_BACKEND
  value: {{ .Values.settings.backend | quote }}
{{- with .Values.settings.formerBackends }}
- name: SMI_ADAPTER_FORMER_BACKENDS
  value: {{ join "," . | quote }}
{{- end }}
- name: SMI_ADAPTER_PROFILE
  value: {{ .Values.settings.profile | quote }}
- name: SMI_ADAPTER_MODE
  value: {{ .Values.settings.mode | quote }}
- name: SMI_ADAPTER_TRUST_DOMAIN
  value: {{ .Values.settings.trustDomain | quote }}
{{- with .Values.settings.federatedDomains }}
- name: SMI_ADAPTER_FEDERATED_DOMAINS
  value: {{ join "," . | quote }}
{{- end }}
- name: SMI_ADAPTER_CERTIFICATE_SECONDS
  value: {{ .Values.settings.certificateSeconds | int64 | quote }}
{{- with .Values.watchNamespaces }}
- name: SMI_ADAPTER_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.namespaceSelector }}
- name: SMI_ADAPTER_NAMESPACE_SELECTOR
  value: {{ . | quote }}
{{- end }}
- name: SMI_ADAPTER_XDS_ADDRESS
  value: "0.0.0.0:{{ .Values.xds.port }}"
- name: SMI_ADAPTER_XDS_SERVICE
  value: {{ $name }}-xds
- name: SMI_ADAPTER_TOKEN_AUDIENCE
  value: {{ .Values.xds.tokenAudience | quote }}
- name: SMI_ADAPTER_CHECK_PEER_ADDRESS
  value: {{ .Values.xds.checkPeerAddress | quote }}
- name: SMI_ADAPTER_HEALTH_ADDRESS
  value: "0.0.0.0:{{ .Values.health.port }}"
- name: SMI_ADAPTER_AUTHORITY_SECRET
  value: {{ $name }}-ca
- name: SMI_ADAPTER_LEASE
  value: {{ $name }}
{{- if include "smi-adapter.webhooks" . }}
- name: SMI_ADAPTER_WEBHOOK_ADDRESS
  value: "0.0.0.0:{{ .Values.webhooks.port }}"
- name: SMI_ADAPTER_WEBHOOK_SERVICE
  value: {{ $name }}-webhooks
{{- if .Values.certManager.enabled }}
- name: SMI_ADAPTER_WEBHOOK_CERTIFICATES
  value: /etc/smi-adapter/webhooks
{{- else }}
- name: SMI_ADAPTER_WEBHOOK_SECRET
  value: {{ $name }}-webhooks
{{- if .Values.webhooks.validating.enabled }}
- name: SMI_ADAPTER_WEBHOOK_CONFIGURATION
  value: {{ include "smi-adapter.clusterName" . }}
{{- end }}
{{- end }}
- name: SMI_ADAPTER_WEBHOOK_CONVERSION
  value: {{ .Values.webhooks.conversion.enabled | quote }}
{{- end }}
- name: SMI_ADAPTER_LOG_FORMAT
  value: {{ .Values.settings.logFormat | quote }}
- name: SMI_ADAPTER_LOG_LEVEL
  value: {{ .Values.settings.logLevel | quote }}
{{- end }}
