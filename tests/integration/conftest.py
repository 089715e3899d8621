from __future__ import annotations

import pytest

from tests.integration.workshop import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory) -> Workshop:
    from mars.data.convert.llvip import convert_llvip
    from mars.data.synthetic.tiny_model import build_tiny
    from mars.data.synthetic.write import SetSizes, write_synthetic

    folder = tmp_path_factory.mktemp("workshop")
    build_tiny(folder / "model", seed=2)
    sizes = SetSizes(train=12, test=4, cold_start=0)
    write_synthetic(folder / "data" / "scenes", seed=3, sizes=sizes, bias=0.5)
    convert_llvip(str(folder / "data" / "scenes"), str(folder / "data"))
    return Workshop(folder)
