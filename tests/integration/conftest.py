from __future__ import annotations

import pytest

from tests.integration.workshop import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory) -> Workshop:
    from mars.data.synthetic.tiny_model import build_tiny
    from mars.data.synthetic.write import SetSizes, write_synthetic
    from tests.unit.data.convert.small_sets import run_convert

    folder = tmp_path_factory.mktemp("workshop")
    build_tiny(folder / "model", seed=2)
    sizes = SetSizes(train=12, test=4, cold_start=0)
    write_synthetic(folder / "data" / "scenes", seed=3, sizes=sizes, bias=0.5)
    run_convert(folder / "data", "llvip", folder / "data" / "scenes")
    return Workshop(folder)
