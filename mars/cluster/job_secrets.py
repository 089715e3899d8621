"""Values of a user's environment variables on their way to a job, such as WANDB_API_KEY.

Ray writes the variables of a job's runtime_env into logs and into the command lines of worker processes, and shows them
to everybody who may list jobs. So the job server puts the variables into the memory of the cluster's head under a
random name, and the job removes them when it starts.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping

from mars.errors import SetupError

_TIMEOUT_S = 30.0


def new_name() -> str:
    """A new random name that looks like a package's name, because the job server takes uploads only as packages."""
    return f"mars_environment_{secrets.token_hex(16)}.zip"


def content_of(variables: Mapping[str, str]) -> bytes:
    return json.dumps(dict(variables)).encode()


def take(name: str) -> Mapping[str, str]:
    """The variables stored under `name`. Removes them from the head. Called in the job. Raises SetupError."""
    from ray._raylet import GcsClient  # type: ignore[reportAttributeAccessIssue]

    head, key = GcsClient(address=os.environ["RAY_ADDRESS"]), f"gcs://{name}".encode()
    content = head.internal_kv_get(key, None, _TIMEOUT_S)
    if content is None:
        raise SetupError("--env: the variables are not on the head any more; submit the job again")
    head.internal_kv_del(key, False, None, _TIMEOUT_S)
    return json.loads(content)
