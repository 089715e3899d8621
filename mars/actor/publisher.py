"""Numbers the versions of the policy's weights and sends them."""

from __future__ import annotations

import torch

from mars.actor.model import PolicyModel
from mars.actor.state import Readable, weight_buckets
from mars.types import WeightUpdate
from mars.weights.transfer import WeightTransfer


class WeightPublisher:
    """Sends the weights of `policy` in `dtype`. All calls except `changed` and `version` are collective."""

    def __init__(self, policy: PolicyModel, dtype: str, transfer: WeightTransfer, readable: Readable) -> None:
        self._readable = readable
        self._policy, self._dtype, self._transfer = policy, getattr(torch, dtype), transfer
        self._version, self._is_current = 0, True

    def changed(self) -> None:
        """Call it when the weights change."""
        self._is_current = False

    @property
    def version(self) -> int:
        """The version of the current weights. If they have not been sent yet: the version that they will get."""
        return self._version if self._is_current else self._version + 1

    def publish(self) -> WeightUpdate:
        return self.send(self._version + 1)

    def send(self, version: int) -> WeightUpdate:
        """Send the weights as this version.

        A call with the version of the previous call sends the same weights again, for an engine that replaces a lost
        one. Raises ValueError for a lower version, and for the same one if the weights have changed since that call.
        """
        if version < self._version or (version == self._version and not self._is_current):
            raise ValueError(
                f"the weights of version {version} are gone; the trainer is beyond version {self._version}"
            )
        self._version, self._is_current = version, True
        buckets = weight_buckets(self._policy, self._dtype, self._transfer.bucket_bytes, self._readable)
        return WeightUpdate(version, self._transfer.send(version, buckets))
