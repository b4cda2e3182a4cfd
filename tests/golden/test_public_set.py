"""The part of the golden vectors that is in the repository equals the full set."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.helpers.golden import FULL, GOLDEN, PUBLIC, Stored, complete, values

FILES = sorted(str(path.relative_to(PUBLIC)) for path in PUBLIC.rglob("*") if path.is_file())


def test_its_size() -> None:
    assert 0 < sum((PUBLIC / name).stat().st_size for name in FILES) < 1_000_000
    assert {Path(name).suffix for name in FILES} == {".npz", ".json"}


@pytest.mark.skipif(GOLDEN != FULL, reason=f"no full set of golden vectors at {FULL} (FINECLIP_GOLDEN)")
def test_stored_and_drawn_arrays_are_those_of_the_full_set(tmp_path: Path) -> None:
    complete(PUBLIC, tmp_path)
    drawn = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.safetensors")}
    assert len(drawn) == 3
    for name in {*FILES, *drawn} - {"drawn.json"}:
        if name.endswith(".json"):
            assert values(name) == json.loads((tmp_path / name).read_text())
            continue
        found, full = (read(folder / name) for folder in (tmp_path, FULL))
        assert found
        if name in drawn or name.endswith("_tiny/inputs.npz"):
            assert found.keys() == full.keys(), name
        for key, value in found.items():
            assert value.dtype == full[key].dtype and value.shape == full[key].shape, (name, key)
            np.testing.assert_allclose(value, full[key], rtol=2e-6, atol=1e-7, err_msg=f"{name}: {key}")


def read(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        return load_file(path)
    with np.load(path) as stored:
        return dict(stored)


def test_an_array_that_is_left_out_skips_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.helpers.golden.GOLDEN", Path("completed"))
    with pytest.raises(pytest.skip.Exception, match="mosaics_64.*FINECLIP_GOLDEN"):
        Stored({"boxes": 1})["mosaics_64"]
    monkeypatch.setattr("tests.helpers.golden.GOLDEN", FULL)
    with pytest.raises(KeyError, match="mosaics_64"):
        Stored({"boxes": 1})["mosaics_64"]
