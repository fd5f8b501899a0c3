"""
What is watched, and what wakes somebody.

The figures come from three sides, so that no one of them can keep quiet: the enclave's
audit events (through the parent's log), the load balancer's own view, and two functions
that look from outside (`attestation_canary`, `health_probe`). An alarm treats silence
as bad news wherever silence is not the normal state.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from constructs import Construct

from nitrosigner.infrastructure.settings import Job, Plan
from nitrosigner.untrusted.gateway import attestation_canary, health_probe

NAMESPACE: Final = "nitrosigner"
_MINUTE: Final = Duration.minutes(1)
_FIVE: Final = Duration.minutes(5)
_HIGH: Final = cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD
_LOW: Final = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
_SILENCE_IS_BAD: Final = cloudwatch.TreatMissingData.BREACHING
_SILENCE_IS_FINE: Final = cloudwatch.TreatMissingData.NOT_BREACHING
UNDECIDED_PERCENT: Final = 5
CERTIFICATE_DAYS: Final = 14
"""Enclaves make a new certificate at each boot; replace the instances."""

AUDITED: Final = {
    "Signed": '$.outcome = "signed"',
    "Refused": '$.outcome = "refused"',
    "Undecided": '$.outcome = "undecided"',
    "SlashingRefused": '$.code = "slashable"',
    "StrangersRefused": '$.code = "unauthenticated"',
}
"""Metrics made from audit events: name → condition. The fields are
`enclave.audit.Facts`'s and the codes `verdicts.Code`'s; a test compares them."""
PARENTS: Final = {
    "KmsDenied": '$.event = "enclave_state" && $.code = "kms_refused"',
    "StorageFailed": '$.event = "service_failed"',
}
"""The same from the parent's own log."""
COUNTED: Final = (("", "$.count NOT EXISTS", "1"), ("Many", "$.count > 0", "$.count"))
"""One audit event is about one key, or about as many as it counts: a batch of duties
gives one for each kind of verdict, and its thousand signatures are not one."""


def metric_filters() -> Iterator[tuple[str, str, str, str, str]]:
    """Yield log group, metric, what sets the filter apart, pattern, what it adds."""
    for metric, condition in AUDITED.items():
        for more, counted, value in COUNTED:
            yield "audit", metric, more, f"{{ {condition} && {counted} }}", value
    for metric, condition in PARENTS.items():
        yield "parent", metric, "", f"{{ {condition} }}", "1"


@dataclass(frozen=True, slots=True)
class _Rule:
    """One alarm."""

    name: str
    says: str
    metric: cloudwatch.IMetric
    threshold: float
    comparison: cloudwatch.ComparisonOperator
    missing: cloudwatch.TreatMissingData
    periods: int = 1


class Observability(Construct):
    """Metrics, alarms and a dashboard for one stack."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        *,
        plan: Plan,
        topic: sns.ITopic,
        log_groups: Mapping[str, logs.LogGroup],
        targets: elb.NetworkTargetGroup,
        balancer: elb.NetworkLoadBalancer,
    ) -> None:
        """
        Make them.

        Args:
            scope: Where it belongs.
            name: In that scope.
            plan: The stack.
            topic: Told about alarms.
            log_groups: Of each program and of `audit`.
            targets: The signers.
            balancer: In front of them.
        """
        super().__init__(scope, name)
        self._plan = plan
        for group, metric, more, pattern, value in metric_filters():
            logs.MetricFilter(
                self,
                f"Count{more}{metric}",
                log_group=log_groups[group],
                metric_namespace=NAMESPACE,
                # A filter that has a default value can have no dimensions, so the
                # stack stands in the name.
                metric_name=self._named(metric),
                filter_pattern=logs.FilterPattern.literal(pattern),
                metric_value=value,
                default_value=0,
            )
        self._healthy = targets.metrics.healthy_host_count(
            period=_MINUTE, statistic="Minimum"
        )
        self.alarms = [self._alarm(rule, topic) for rule in self._rules()]
        self.dashboard = cloudwatch.Dashboard(
            self, "Dashboard", dashboard_name=f"nitrosigner-{plan.name}"
        )
        for row in self._rows(targets, balancer):
            self.dashboard.add_widgets(*row)

    def _named(self, metric: str) -> str:
        return f"{self._plan.name}/{metric}"

    def _count(self, metric: str, period: Duration = _FIVE) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace=NAMESPACE,
            metric_name=self._named(metric),
            statistic="Sum",
            period=period,
            label=metric,
        )

    def _looked(
        self, metric: str, statistic: str, period: Duration
    ) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace=NAMESPACE,
            metric_name=metric,
            dimensions_map={"stack": self._plan.name},
            statistic=statistic,
            period=period,
        )

    def _rules(self) -> list[_Rule]:
        undecided, signed = self._count("Undecided"), self._count("Signed")
        rate = cloudwatch.MathExpression(
            expression="IF(u + s > 0, 100 * u / (u + s), 0)",
            using_metrics={"u": undecided, "s": signed},
            period=_FIVE,
            label="undecided, percent",
        )
        rules = [
            _Rule(
                "NoHealthySigner",
                "Nothing can be signed: no instance has a ready enclave",
                self._healthy,
                1,
                _LOW,
                _SILENCE_IS_BAD,
                2,
            ),
            _Rule(
                "OneSignerLeft",
                "The next failure stops signing: fewer healthy signers than wanted",
                self._healthy,
                self._plan.chosen.minimum,
                _LOW,
                _SILENCE_IS_BAD,
                10,
            ),
            _Rule(
                "SignerNotReady",
                "A caller inside the network gets no ready signer",
                self._looked(health_probe.READY, "Maximum", _MINUTE),
                1,
                _LOW,
                _SILENCE_IS_BAD,
                3,
            ),
            _Rule(
                "UndecidedRate",
                "Requests end undecided: KMS, the store or the audit log is failing",
                rate,
                UNDECIDED_PERCENT,
                _HIGH,
                _SILENCE_IS_FINE,
                2,
            ),
            _Rule(
                "KmsDenied",
                "KMS refuses an enclave: another image, another administrator, or a "
                "changed key policy",
                self._count("KmsDenied"),
                1,
                _HIGH,
                _SILENCE_IS_FINE,
            ),
            _Rule(
                "CertificateEnds",
                "The signer's certificate ends soon: replace the instances; if it was "
                "imported, import its successor (docs/operations/tls-certificate.md)",
                self._looked(health_probe.DAYS_LEFT, "Minimum", _FIVE),
                CERTIFICATE_DAYS,
                _LOW,
                _SILENCE_IS_FINE,
            ),
            _Rule(
                "UnattestedDecrypt",
                "INCIDENT: KMS opened something without an enclave, or the key's "
                "policy in force would. See "
                "docs/operations/suspected-host-compromise.md",
                self._looked(attestation_canary.OPENED, "Maximum", _FIVE),
                1,
                _HIGH,
                _SILENCE_IS_FINE,
            ),
            _Rule(
                "CanarySilent",
                "Nobody knows whether KMS opens without an enclave: the canary fails",
                self._looked(attestation_canary.NOT_KNOWN, "Maximum", _FIVE),
                1,
                _HIGH,
                _SILENCE_IS_BAD,
                6,
            ),
        ]
        if self._plan.job is Job.VALIDATOR:
            rules.append(
                _Rule(
                    "SlashingRefused",
                    "A slashable duty was asked for and refused: two validator clients "
                    "run with the same keys, or somebody tries",
                    self._count("SlashingRefused"),
                    1,
                    _HIGH,
                    _SILENCE_IS_FINE,
                )
            )
        if self._plan.chosen.expected_keys:
            rules.append(
                _Rule(
                    "KeysMissing",
                    "Fewer keys are loaded than expected",
                    self._looked(health_probe.KEYS, "Minimum", _FIVE),
                    self._plan.chosen.expected_keys,
                    _LOW,
                    _SILENCE_IS_FINE,
                    2,
                )
            )
        return rules

    def _alarm(self, rule: _Rule, topic: sns.ITopic) -> cloudwatch.Alarm:
        alarm = cloudwatch.Alarm(
            self,
            rule.name,
            alarm_description=rule.says,
            metric=rule.metric,
            threshold=rule.threshold,
            comparison_operator=rule.comparison,
            evaluation_periods=rule.periods,
            treat_missing_data=rule.missing,
        )
        alarm.add_alarm_action(actions.SnsAction(topic))
        alarm.add_ok_action(actions.SnsAction(topic))
        return alarm

    def _rows(
        self, targets: elb.NetworkTargetGroup, balancer: elb.NetworkLoadBalancer
    ) -> list[list[cloudwatch.IWidget]]:
        mode = "**DEBUG MODE: no real keys.** " if self._plan.debug else ""
        heading = cloudwatch.TextWidget(
            markdown=f"# {self._plan.name}\n{mode}Deployment "
            f"`{self._plan.deployment}`, administrator `{self._plan.administrator}`",
            width=24,
            height=2,
        )
        state = cloudwatch.AlarmStatusWidget(alarms=self.alarms, width=24, height=3)

        def graph(title: str, *metrics: cloudwatch.IMetric) -> cloudwatch.GraphWidget:
            return cloudwatch.GraphWidget(title=title, left=list(metrics), width=12)

        return [
            [heading],
            [state],
            [
                graph(
                    "Verdicts",
                    *(self._count(one) for one in ("Signed", "Refused", "Undecided")),
                ),
                graph("Slashing", self._count("SlashingRefused")),
            ],
            [
                graph(
                    "Signers",
                    self._healthy,
                    targets.metrics.un_healthy_host_count(period=_MINUTE),
                ),
                graph(
                    "Connections",
                    balancer.metrics.active_flow_count(period=_MINUTE),
                    balancer.metrics.new_flow_count(period=_MINUTE),
                ),
            ],
            [
                graph(
                    "KMS",
                    self._count("KmsDenied"),
                    self._looked(attestation_canary.OPENED, "Maximum", _FIVE),
                    self._looked(attestation_canary.NOT_KNOWN, "Maximum", _FIVE),
                ),
                graph(
                    "Certificate and keys",
                    self._looked(health_probe.DAYS_LEFT, "Minimum", _FIVE),
                    self._looked(health_probe.KEYS, "Minimum", _FIVE),
                ),
            ],
        ]
