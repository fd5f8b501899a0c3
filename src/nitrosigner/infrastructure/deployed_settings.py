"""
What the programs on an instance are told, as one JSON document in user data.

Nothing in it is secret and nothing in it decides what is signed: that is the manifest,
which the enclave checks. Each part is read by its program's own strict reader.
"""

from collections.abc import Mapping
from typing import Any, Final

from aws_cdk import Aws

from nitrosigner.infrastructure import fleet
from nitrosigner.infrastructure.entrance import PARENT_PORT
from nitrosigner.infrastructure.settings import Plan
from nitrosigner.infrastructure.stores import ValidatorStores, WalletStores

STATE: Final = "/var/lib/nitrosigner/state.json"
PARENT_CONTROL: Final = "/var/lib/nitrosigner/parent.sock"
METRICS_PORT: Final = 9464
METRICS_JOB: Final = "nitrosigner"
PROMETHEUS: Final = "/etc/nitrosigner/prometheus.json"
SHIPPED_METRICS: Final = {
    # For each set of labels, what the agent makes CloudWatch metrics of. Each series
    # costs by the month, so histograms and bytes stay on the instance.
    ("stack",): (
        "nitrosigner_enclave_ready",
        "nitrosigner_validator_keys_loaded",
        "nitrosigner_validator_keys_enabled",
        "nitrosigner_watermark_age_seconds",
        "nitrosigner_kms_calls_total",
        "nitrosigner_duties_shed_total",
        "nitrosigner_relay_connections",
    ),
    ("stack", "kind"): ("nitrosigner_duties_permitted_total",),
    ("stack", "reason"): ("nitrosigner_duties_prevented_total",),
    ("stack", "code"): ("nitrosigner_duties_undecided_total",),
}
AUDIT: Final = "/var/log/nitrosigner/audit/audit.jsonl"
LOGS: Final = ("parent", "watchdog", "lifecycle")
AUDIT_ROTATION: Final = 100 * 1024 * 1024
DRAIN_SECONDS: Final = 60.0
"""Below the unit's TimeoutStopSec and the hook's time."""
ENCLAVE_CID: Final = 16


def deployed(
    plan: Plan,
    *,
    stores: WalletStores | ValidatorStores,
    pcr0: str,
    group_name: str,
    init_flag: str,
    log_groups: Mapping[str, str],
) -> dict[str, Any]:
    """
    Return the document. Its values may be references that CloudFormation fills in.

    Args:
        plan: The stack.
        stores: Where records lie.
        pcr0: Of the image that is shipped: an enclave with another is replaced.
        group_name: Of the Auto Scaling group.
        init_flag: Name of the parameter that says that keys are there.
        log_groups: For each program, and for `audit`.
    """
    return {
        "parent": _parent(plan, stores),
        "watchdog": _watchdog(plan, pcr0),
        "lifecycle": {
            "region": Aws.REGION,
            "group": group_name,
            "launching_hook": fleet.LAUNCHING_HOOK,
            "terminating_hook": fleet.TERMINATING_HOOK,
            "init_flag": init_flag,
            "port": PARENT_PORT,
        },
        "allocator": {
            "memory_mib": plan.chosen.enclave_memory,
            "cpu_count": plan.chosen.enclave_processors,
        },
        "cloudwatch-agent": _cloudwatch_agent(log_groups),
        "prometheus": {
            "global": {"scrape_interval": "1m", "scrape_timeout": "5s"},
            "scrape_configs": [
                {
                    "job_name": METRICS_JOB,
                    "static_configs": [
                        {
                            "targets": [f"127.0.0.1:{METRICS_PORT}"],
                            "labels": {"stack": plan.name},
                        }
                    ],
                }
            ],
        },
    }


def _parent(plan: Plan, stores: WalletStores | ValidatorStores) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "listen": {"address": "0.0.0.0", "port": PARENT_PORT},
        "vsock": {"kind": "vsock", "enclave_cid": ENCLAVE_CID},
        "region": Aws.REGION,
        "audit": {"path": AUDIT, "rotate_bytes": AUDIT_ROTATION},
        "state": STATE,
        "control": PARENT_CONTROL,
        # On the instance only: the CloudWatch agent scrapes, or another one beside it.
        "metrics": {"address": "127.0.0.1", "port": METRICS_PORT},
        "limits": {"drain_seconds": DRAIN_SECONDS},
    }
    if isinstance(stores, WalletStores):
        settings["store"] = {"kind": "secrets_manager", "prefix": stores.prefix}
    else:
        items = {"kind": "dynamodb", "deployment": plan.deployment}
        settings["store"] = {**items, "table": stores.records.table_name}
        settings["watermarks"] = {**items, "table": stores.watermarks.table_name}
    return settings


def _watchdog(plan: Plan, pcr0: str) -> dict[str, Any]:
    return {
        "enclave": {
            "kind": "nitro_cli",
            "image": "/opt/nitrosigner/enclave.eif",
            "pcr0": pcr0,
            "cid": ENCLAVE_CID,
            "memory_mib": plan.chosen.enclave_memory,
            "cpu_count": plan.chosen.enclave_processors,
            "debug": plan.debug,
        },
        "probe": {"port": PARENT_PORT},
        "parent_control": PARENT_CONTROL,
        "parent_state": STATE,
    }


def _cloudwatch_agent(log_groups: Mapping[str, str]) -> dict[str, Any]:
    def followed(path: str, group: str) -> dict[str, Any]:
        return {
            "file_path": path,
            "log_group_name": group,
            "log_stream_name": "{instance_id}",
        }

    files = [
        followed(f"/var/log/nitrosigner/{name}.log", log_groups[name]) for name in LOGS
    ]
    files.append(followed(f"{AUDIT}*", log_groups["audit"]))
    files.append(followed("/var/log/cloud-init-output.log", log_groups["installation"]))
    return {
        "agent": {"region": Aws.REGION, "logfile": "/var/log/cloudwatch-agent.log"},
        "logs": {
            "logs_collected": {"files": {"collect_list": files}},
            "metrics_collected": {
                "prometheus": {
                    "log_group_name": log_groups["metrics"],
                    "prometheus_config_path": PROMETHEUS,
                    "emf_processor": {
                        "metric_namespace": METRICS_JOB,
                        "metric_declaration": [
                            {
                                "source_labels": ["job"],
                                "label_matcher": f"^{METRICS_JOB}$",
                                "dimensions": [list(labels)],
                                "metric_selectors": [f"^{name}$" for name in names],
                            }
                            for labels, names in SHIPPED_METRICS.items()
                        ],
                    },
                }
            },
        },
    }
