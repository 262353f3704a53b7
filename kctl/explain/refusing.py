"""Causes while pods are missing: who refuses them. The operator's event repeats the API server's words.

Those of Kubernetes 1.34: plugin/pkg/admission, k8s.io/apiserver and k8s.io/pod-security-admission.
"""

from kctl.backends.facts import Facts
from kctl.explain.cause import Cause, says

_refused = Facts.refusals

REFUSED = (
    Cause(
        "quota",
        says(
            _refused,
            r"exceeded quota: (?P<quota>[^,]+), requested: (?P<requested>.+), used: (?P<used>.+), "
            r"limited: (?P<limited>.+)",
        ),
        "quota {quota} is used up: the pod asks for {requested}, {used} is in use, {limited} is all there is",
        "kctl list{flags}; it starts by itself when another run ends, or: {kubectl} describe resourcequota {quota}",
    ),
    Cause(
        "quota-unstated",
        says(_refused, r"failed quota: (?P<quota>[^:]+): must specify (?P<what>.+?)( for: .*)?$"),
        "quota {quota} wants every pod to state {what}, and this one does not",
        "add {what} in pod_patch of the cluster profile, or: {kubectl} describe resourcequota {quota}",
    ),
    Cause(
        "limit-range",
        says(_refused, r"(?P<which>maximum|minimum) (?P<resource>\S+) usage per (?P<of>\w+) is (?P<limit>[^,.]+)[,.]"),
        "a LimitRange of the namespace has {limit} as the {which} {resource} of a {of}",
        "{kubectl} describe limitrange; then change cpu or memory of the cluster profile",
    ),
    Cause(
        "pod-security",
        says(_refused, r'violates PodSecurity "(?P<level>[^"]+)": (?P<what>.+)'),
        "the namespace enforces Pod Security {level}: {what}",
        "remove that from pod_patch of the cluster profile; kctl's own pods pass",
    ),
    Cause(
        "policy",
        says(_refused, r"ValidatingAdmissionPolicy '(?P<policy>[^']+)'.* denied request: (?P<what>.+)"),
        "policy {policy} of the cluster refuses the pods: {what}",
        "{cluster} get validatingadmissionpolicy {policy} -o yaml",
    ),
    Cause(
        "webhook-denied",
        says(_refused, r'admission webhook "(?P<webhook>[^"]+)" denied the request: (?P<what>.+)'),
        "webhook {webhook} of the cluster refuses the pods: {what}",
        "change what it names in the cluster profile, or ask who runs that webhook",
    ),
    Cause(
        "webhook-away",
        says(_refused, r'failed calling webhook "(?P<webhook>[^"]+)"'),
        "webhook {webhook} must be asked about each pod and does not answer",
        "{cluster} get validatingwebhookconfigurations,mutatingwebhookconfigurations",
    ),
    Cause(
        "priority-class",
        says(_refused, r"no PriorityClass with name (?P<priority>\S+) was found"),
        "there is no PriorityClass {priority}, which cluster.priority names",
        "{cluster} get priorityclasses; then correct cluster.priority",
    ),
    Cause(
        "service-account",
        says(_refused, r"error looking up service account (\S+/)?(?P<account>[^:]+)"),
        "the namespace has no ServiceAccount {account}",
        "{kubectl} get serviceaccounts",
    ),
    Cause(
        "runtime-class",
        says(_refused, r'RuntimeClass "(?P<runtime>[^"]+)" not found'),
        "there is no RuntimeClass {runtime}, which pod_patch names",
        "{cluster} get runtimeclasses; then correct pod_patch of the cluster profile",
    ),
    Cause(
        "namespace-ends",
        says(_refused, r"namespace (?P<ns>\S+) because it is being terminated"),
        "namespace {ns} is being deleted, and nothing is made there any more",
        "{cluster} get namespaces; then submit with -n into another one",
    ),
    Cause(
        "operator-rights",
        says(_refused, r'User "(?P<user>[^"]+)" cannot create resource "(?P<resource>[^"]+)"'),
        "the training operator ({user}) has no right to create {resource} here",
        "{cluster} describe clusterrole training-operator",
    ),
    Cause(
        "pod-invalid",
        says(_refused, r'(Pod|Service) "[^"]+" is invalid: (?P<what>.+)'),
        "the API server refuses the pod as it is written: {what}",
        "correct pod_patch of the cluster profile; kctl submit {config} --dry-run=server{flags}",
    ),
    Cause(
        "pods-refused",
        says(_refused, r"^FailedCreate\w+: (?P<what>.+)"),
        "the cluster does not let the operator make the pods: {what}",
        "{kubectl} describe pytorchjob {run}",
    ),
)
