"""mars/by_hand.py refuses what would be no step by hand. examples/notebooks/quickstart.ipynb takes a step with it."""

from __future__ import annotations

import pytest

from mars.by_hand import prepared_step
from mars.errors import ConfigError
from tests.builders import train_config


def test_engine_and_trainer_must_be_in_this_process():
    refused = prepared_step(train_config({"cluster.kind": "ray"}))
    with pytest.raises(ConfigError, match=r"cluster\.kind: .* got ray; use cluster=local"), refused:
        pass
