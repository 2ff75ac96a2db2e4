"""The fields of the Gateway API's kinds, ``gateway.networking.k8s.io/v1``, standard channel: custom resources, not built in.

A word is a scalar, a list is a list of its first item with the keys that follow, ``*`` marks what is required.
Source: gateway-api.sigs.k8s.io, API specification v1.
"""

from collections.abc import Mapping
from typing import Any

_CONDITION = {"type*": "string", "status*": "string", "reason*": "string", "message*": "string",
              "lastTransitionTime*": "string", "observedGeneration": "integer"}  # fmt: skip
_CONDITIONS = [_CONDITION, "type"]
_PARENT = {"group": "string", "kind": "string", "namespace": "string", "name*": "string", "sectionName": "string",
           "port": "integer"}  # fmt: skip
_HEADER_MATCH = {"type": "string", "name*": "string", "value*": "string"}
_HEADER = {"name*": "string", "value*": "string"}
_HEADER_FILTER = {"set": [_HEADER, "name"], "add": [_HEADER, "name"], "remove": ["string"]}
_BACKEND = {"group": "string", "kind": "string", "namespace": "string", "name*": "string", "port": "integer"}
_PATH = {"type*": "string", "replaceFullPath": "string", "replacePrefixMatch": "string"}
_FILTER = {
    "type*": "string", "requestHeaderModifier": _HEADER_FILTER, "responseHeaderModifier": _HEADER_FILTER,
    "requestMirror": {"backendRef*": _BACKEND, "percent": "integer",
                      "fraction": {"numerator*": "integer", "denominator": "integer"}},
    "requestRedirect": {"scheme": "string", "hostname": "string", "path": _PATH, "port": "integer", "statusCode": "integer"},
    "urlRewrite": {"hostname": "string", "path": _PATH},
    "cors": {"allowOrigins": ["string"], "allowCredentials": "boolean", "allowMethods": ["string"], "allowHeaders": ["string"],
             "exposeHeaders": ["string"], "maxAge": "integer"},
    "extensionRef": {"group*": "string", "kind*": "string", "name*": "string"},
}  # fmt: skip
_RULE = {
    "name": "string",
    "matches": [{"path": {"type": "string", "value": "string"}, "headers": [_HEADER_MATCH, "name"],
                 "queryParams": [_HEADER_MATCH, "name"], "method": "string"}],
    "filters": [_FILTER],
    "backendRefs": [_BACKEND | {"weight": "integer", "filters": [_FILTER]}],
    "timeouts": {"request": "string", "backendRequest": "string"},
}  # fmt: skip
_SELECTOR = {
    "matchLabels": "map",
    "matchExpressions": [{"key*": "string", "operator*": "string", "values": ["string"]}],
}
_LISTENER = {
    "name*": "string", "hostname": "string", "port*": "integer", "protocol*": "string",
    "tls": {"mode": "string", "options": "map",
            "certificateRefs": [{"group": "string", "kind": "string", "name*": "string", "namespace": "string"}]},
    "allowedRoutes": {"namespaces": {"from": "string", "selector": _SELECTOR},
                      "kinds": [{"group": "string", "kind*": "string"}]},
}  # fmt: skip

SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "GatewayClass": {
        "spec": {"controllerName*": "string", "description": "string",
                 "parametersRef": {"group*": "string", "kind*": "string", "name*": "string", "namespace": "string"}},
        "status": {"conditions": _CONDITIONS, "supportedFeatures": [{"name*": "string"}, "name"]},
    },
    "Gateway": {
        "spec": {"gatewayClassName*": "string", "listeners*": [_LISTENER, "name"],
                 "addresses": [{"type": "string", "value": "string"}],
                 "infrastructure": {"labels": "map", "annotations": "map",
                                    "parametersRef": {"group*": "string", "kind*": "string", "name*": "string"}}},
        "status": {"addresses": [{"type": "string", "value*": "string"}], "conditions": _CONDITIONS,
                   "listeners": [{"name*": "string", "supportedKinds": [{"group": "string", "kind*": "string"}],
                                  "attachedRoutes*": "integer", "conditions": _CONDITIONS}, "name"]},
    },
    "HTTPRoute": {
        "spec": {"parentRefs": [_PARENT], "hostnames": ["string"], "rules": [_RULE]},
        "status": {"parents": [{"parentRef*": _PARENT, "controllerName*": "string", "conditions": _CONDITIONS}]},
    },
}  # fmt: skip
