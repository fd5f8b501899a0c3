"""The fake signer of tests/client, here too."""

from typing import Any

import pytest


@pytest.fixture
def signer(fake_signer: Any) -> Any:
    return fake_signer
