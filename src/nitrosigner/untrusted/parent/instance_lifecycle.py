"""
`python -m nitrosigner.untrusted.parent.instance_lifecycle --config FILE`: between an
instance and its Auto Scaling group.

A new instance is held back until this says that its enclave can sign; one that must go
is drained before this lets it go. Before the key ceremony there is nothing to sign
with, so until the stack's flag says `true` it only asks for more time.

What must not be got wrong: to be unsure is not to be ready. Only an enclave that
answers UP lets the instance in; whatever cannot be found out leaves it waiting, and the
hook's own default gives it up.
"""

import argparse
import http.client
import json
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum, unique
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

METADATA: Final = "http://169.254.169.254"
_PREFIX: Final = "/latest/meta-data/"
TERMINATED: Final = "Terminated"
SERVICES: Final = ("nitrosigner-parent.service", "nitrosigner-watchdog.service")
"""In the order of starting. They are stopped the other way round."""
READY_SECONDS: Final = 900.0
"""From starting the services to an enclave that can sign; then another instance is
tried. It bears a KMS or a store that is away for some minutes."""
HEARTBEAT_SECONDS: Final = 1800.0
"""A quarter of the hook's time."""
POLL_SECONDS: Final = 5.0
WAIT_SECONDS: Final = 15.0
"""Between looks at the flag."""
_MAX_ANSWER: Final = 64 * 1024

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class Configuration(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """What it is told, in one JSON file."""

    region: Text
    group: Text
    launching_hook: Text
    terminating_hook: Text
    init_flag: Text
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]


@unique
class Said(StrEnum):
    """What a lifecycle hook is told."""

    CONTINUE = "CONTINUE"
    ABANDON = "ABANDON"


class Unsure(Exception):
    """It could not be found out. Ask again."""


class Surroundings(Protocol):
    """Everything outside. A call that raises `Unsure` may have had its effect."""

    def target_state(self) -> str:
        """Return what Auto Scaling wants the instance to be: InService, Terminated."""
        ...

    def initialised(self) -> bool:
        """Return whether the stack's flag says that keys are there."""
        ...

    def start(self) -> None:
        """Start the services."""
        ...

    def stop(self) -> None:
        """Stop the services, which drain; returns when they have."""
        ...

    def can_sign(self) -> bool:
        """Return whether the enclave, asked as callers ask, says UP."""
        ...

    def complete(self, hook: str, said: Said) -> None:
        """Tell a hook. One that no longer waits is no error."""
        ...

    def heartbeat(self, hook: str) -> bool:
        """Ask for more time; return whether the hook still waits."""
        ...


@unique
class Phase(StrEnum):
    """Where the instance stands."""

    WAITING = "waiting"
    """For the flag."""
    STARTED = "started"
    """For the enclave."""
    SERVING = "serving"
    GIVEN_UP = "given_up"
    DRAINED = "drained"


@dataclass
class Lifecycle:
    """One instance's life. `step` is called again and again."""

    around: Surroundings
    configuration: Configuration
    say: Callable[[Phase], None] = field(default=lambda _: None)
    phase: Phase = Phase.WAITING
    _since: float = 0.0
    _heartbeat: float = float("-inf")

    def step(self, now: float) -> float:
        """
        Do what can be done now.

        Args:
            now: Of a clock that only grows, in seconds.

        Returns:
            Seconds until the next step.
        """
        try:
            return self._step(now)
        except Unsure:
            return POLL_SECONDS

    def _step(self, now: float) -> float:
        if self.phase in (Phase.DRAINED, Phase.GIVEN_UP):
            return WAIT_SECONDS
        if self.around.target_state() == TERMINATED:
            self.around.stop()
            self.around.complete(self.configuration.terminating_hook, Said.CONTINUE)
            self._enter(Phase.DRAINED, now)
            return WAIT_SECONDS
        match self.phase:
            case Phase.WAITING:
                return self._wait(now)
            case Phase.STARTED:
                return self._look(now)
            case _:
                return POLL_SECONDS

    def _wait(self, now: float) -> float:
        if self.around.initialised():
            self.around.start()
            self._enter(Phase.STARTED, now)
            return POLL_SECONDS
        if now - self._heartbeat >= HEARTBEAT_SECONDS:
            waits = self.around.heartbeat(self.configuration.launching_hook)
            self._heartbeat = now
            if not waits:
                # It serves already: the flag was taken back, or we were started again.
                # What runs is left alone.
                self._enter(Phase.SERVING, now)
        return WAIT_SECONDS

    def _look(self, now: float) -> float:
        hook = self.configuration.launching_hook
        if self.around.can_sign():
            self.around.complete(hook, Said.CONTINUE)
            self._enter(Phase.SERVING, now)
        elif now - self._since >= READY_SECONDS:
            self.around.complete(hook, Said.ABANDON)
            self._enter(Phase.GIVEN_UP, now)
        return POLL_SECONDS

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase = phase
        self._since = now
        self.say(phase)


class Instance:
    """The `Surroundings` of a program on an EC2 instance."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        metadata: str = METADATA,
        autoscaling: Any = None,  # noqa: ANN401  # boto3's
        ssm: Any = None,  # noqa: ANN401  # boto3's
        run: Callable[[list[str]], int] = subprocess.call,
    ) -> None:
        """Make it; what is not given is AWS's and systemd's own."""
        self._configuration = configuration
        self._metadata = metadata
        settings = Config(
            connect_timeout=5,
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 5},
        )
        region = configuration.region
        self._autoscaling = autoscaling or boto3.client(
            "autoscaling", region_name=region, config=settings
        )
        self._ssm = ssm or boto3.client("ssm", region_name=region, config=settings)
        self._run = run
        self._identity = ""

    def target_state(self) -> str:
        """See `Surroundings`."""
        return self._ask("autoscaling/target-lifecycle-state")

    def initialised(self) -> bool:
        """See `Surroundings`."""
        try:
            answer = self._ssm.get_parameter(Name=self._configuration.init_flag)
            return bool(answer["Parameter"]["Value"] == "true")
        except (ClientError, BotoCoreError, KeyError) as error:
            raise Unsure from error

    def start(self) -> None:
        """See `Surroundings`."""
        self._systemctl("start", *SERVICES)

    def stop(self) -> None:
        """See `Surroundings`."""
        # The watchdog first: it drains, and would start the enclave again.
        for service in reversed(SERVICES):
            self._systemctl("stop", service)

    def can_sign(self) -> bool:
        """See `Surroundings`."""
        # Nothing is sent and nothing is believed but readiness: whoever could fake it
        # runs this host anyway. Callers verify the attestation.
        unverified = ssl.create_default_context()
        unverified.check_hostname = False
        unverified.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._configuration.port, timeout=5, context=unverified
        )
        try:
            connection.request("GET", "/healthcheck")
            answer = connection.getresponse()
            body = json.loads(answer.read(_MAX_ANSWER))
            return answer.status == 200 and body["status"] == "UP"
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return False
        finally:
            connection.close()

    def complete(self, hook: str, said: Said) -> None:
        """See `Surroundings`."""
        self._hook(
            lambda names: self._autoscaling.complete_lifecycle_action(
                **names, LifecycleActionResult=said.value
            ),
            hook,
        )

    def heartbeat(self, hook: str) -> bool:
        """See `Surroundings`."""
        return self._hook(
            lambda names: self._autoscaling.record_lifecycle_action_heartbeat(**names),
            hook,
        )

    def _hook(self, call: Callable[[dict[str, str]], object], hook: str) -> bool:
        if not self._identity:
            self._identity = self._ask("instance-id")
        try:
            call(
                {
                    "AutoScalingGroupName": self._configuration.group,
                    "LifecycleHookName": hook,
                    "InstanceId": self._identity,
                }
            )
        except ClientError as error:
            # Auto Scaling says so when no hook waits for this instance.
            if error.response.get("Error", {}).get("Code") == "ValidationError":
                return False
            raise Unsure from error
        except BotoCoreError as error:
            raise Unsure from error
        return True

    def _systemctl(self, *command: str) -> None:
        if self._run(["/usr/bin/systemctl", *command]) != 0:
            raise Unsure

    def _ask(self, name: str) -> str:
        """Ask the instance metadata service, by IMDSv2."""
        try:
            token = self._request("PUT", "/latest/api/token", "ttl-seconds", "60")
            return self._request("GET", f"{_PREFIX}{name}", "", token)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unsure from error

    def _request(self, method: str, path: str, header: str, value: str) -> str:
        name = "X-aws-ec2-metadata-token" + (f"-{header}" if header else "")
        request = urllib.request.Request(  # noqa: S310  # a constant http address
            self._metadata + path, method=method, headers={name: value}
        )
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310  # as above
            text: str = answer.read(_MAX_ANSWER).decode().strip()
        return text


def main() -> int:
    """Run until systemd ends it."""
    parser = argparse.ArgumentParser(prog="nitrosigner-lifecycle")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE")
    told = msgspec.json.decode(
        parser.parse_args().config.read_bytes(), type=Configuration
    )

    def say(phase: Phase) -> None:
        line = {"time": round(time.time(), 3), "event": "lifecycle", "state": phase}
        sys.stderr.write(json.dumps(line) + "\n")
        sys.stderr.flush()

    life = Lifecycle(Instance(told), told, say)
    while True:
        time.sleep(life.step(time.monotonic()))


if __name__ == "__main__":
    sys.exit(main())
