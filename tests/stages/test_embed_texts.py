"""Every caption of a shard is embedded once, as the encoder gives it, and only for the encoder and the shard it is of."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.errors import ConfigError, ShardError
from fineclip.models import embed_texts as models
from fineclip.models.checkpoints import load_encoder
from fineclip.models.embed_texts import text_tower_hash
from fineclip.models.encoder import RegionEncoder
from fineclip.models.tokenizer import load_tokenizer
from fineclip.shards import TextsFile, invalidate, read_manifest, sha256_of
from fineclip.stages.embed_texts import text_files, texts_of, texts_shard
from fineclip.stages.weights import fetch_weights
from fineclip.types import Box, Region, Sample
from tests.helpers.packs import keys_of, sample, write_pack
from tests.versions.worlds import ENCODER, WEIGHTS, write_encoder

CONFIG = EncoderConfig(**{**ENCODER, "weights": WeightsConfig(path="tiny.safetensors")})
PACKED, MANIFEST = Path("data/pack/a.json"), Path("data/texts/tiny/a.json")


def captioned(key: str, captions: Sequence[str], regions: Sequence[str | None]) -> Sample:
    found = tuple(Region(Box(0, 0, 8, 8), 0.5, "thing", caption) for caption in regions)
    return replace(sample(key, regions=0), captions=tuple(captions), regions=found)


SAMPLES = [
    captioned("a-000000", ["one dog", "two dogs"], ["a dog", None, "one dog", ""]),
    captioned("a-000001", [], ["a dog"]),
    captioned("a-000002", ["two dogs", "a much longer caption of a dog on a red chair"], []),
]
DIFFERENT = ["one dog", "two dogs", "a dog", "", "a much longer caption of a dog on a red chair"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with an encoder's weights and a packed shard."""
    monkeypatch.chdir(tmp_path)
    write_encoder()
    write_pack(PACKED.parent, "a", SAMPLES, dropped={"a-000003": "undecodable"})


def embedded(packed: Path = PACKED, manifest: Path = MANIFEST, *, batch_size: int = 2) -> TextsFile:
    texts_shard(packed, WEIGHTS, manifest, CONFIG, batch_size=batch_size, device="cpu")
    return TextsFile(manifest.with_suffix(".safetensors"))


def encoder() -> RegionEncoder:
    return load_encoder(CONFIG, Path("tiny.safetensors")).eval()


def test_what_a_training_may_draw() -> None:
    assert [list(texts_of(one)) for one in SAMPLES] == [
        ["one dog", "two dogs", "a dog", "one dog"],
        ["", "a dog"],
        ["two dogs", "a much longer caption of a dog on a red chair"],
    ]


def test_each_different_caption_is_embedded_once_as_the_encoder_gives_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    file = embedded()
    assert len(file) == len(DIFFERENT)
    assert "8 texts of 3 samples, 5 of them distinct" in caplog.text
    with torch.no_grad():
        expected = encoder().encode_text(load_tokenizer(CONFIG)(DIFFERENT))
    torch.testing.assert_close(torch.from_numpy(file.features(DIFFERENT)), expected, rtol=1e-5, atol=1e-6)
    assert file.text_tower == text_tower_hash(encoder())


def test_the_manifest_counts_what_is_packed() -> None:
    embedded()
    made = read_manifest(MANIFEST)
    assert (made.stage, made.read, made.kept, dict(made.dropped), made.regions) == ("texts", 3, 3, {}, 5)
    assert set(made.inputs) == {PACKED.as_posix(), WEIGHTS.as_posix()}
    assert made.outputs == {"a.safetensors": sha256_of(MANIFEST.with_suffix(".safetensors"))}


def test_what_is_done_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded()
    before = MANIFEST.read_bytes()
    MANIFEST.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(models, "embed_texts", lambda *_, **__: pytest.fail("embedded again"))
        embedded()
        assert MANIFEST.read_bytes() == before
    MANIFEST.with_suffix(".safetensors").write_bytes(b"damaged")
    assert len(embedded()) == len(DIFFERENT)
    assert MANIFEST.read_bytes() == before


def test_another_batch_size_gives_the_same_bytes() -> None:
    embedded()
    before = MANIFEST.with_suffix(".safetensors").read_bytes()
    invalidate(MANIFEST)
    embedded(batch_size=5)
    assert MANIFEST.with_suffix(".safetensors").read_bytes() == before


def test_a_new_pack_is_embedded_anew() -> None:
    embedded()
    write_pack(PACKED.parent, "a", SAMPLES[:1])
    assert len(embedded()) == 3


def test_an_empty_shard() -> None:
    write_pack(PACKED.parent, "b", [])
    file = embedded(PACKED.with_stem("b"), MANIFEST.with_stem("b"))
    assert (len(file), file.width) == (0, encoder().width)


def test_a_tar_that_is_cut_leaves_nothing_behind() -> None:
    tar = PACKED.with_suffix(".tar")
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(ShardError, match=r"a\.tar: ends at byte 3,584, where"):
        embedded()
    assert not MANIFEST.exists() and not MANIFEST.with_suffix(".safetensors").exists()


def test_a_vocabulary_belongs_to_an_encoder_that_has_one() -> None:
    config = CONFIG.model_copy(update={"tokenizer": WeightsConfig(path="tiny.txt.gz")})
    with pytest.raises(ConfigError, match="give both, or neither"):
        texts_shard(PACKED, WEIGHTS, MANIFEST, config, batch_size=2, device="cpu")


def test_files_go_to_the_encoder_that_made_them() -> None:
    embedded()
    tower = text_tower_hash(encoder())
    found = text_files({"a": MANIFEST}, packed={"a": PACKED}, text_tower=tower)
    assert found == {"a": MANIFEST.with_suffix(".safetensors")}
    message = (
        r"a\.safetensors: holds embeddings by a text tower of hash [0-9a-f]{12}, but this training's is ffffffffffff"
    )
    with pytest.raises(ShardError, match=message):
        text_files({"a": MANIFEST}, packed={"a": PACKED}, text_tower="f" * 64)


def test_files_of_another_pack_vocabulary_or_stage_are_refused() -> None:
    embedded()
    tower = text_tower_hash(encoder())
    with pytest.raises(ShardError, match="is a manifest of pack; expected texts"):
        text_files({"a": PACKED}, packed={"a": PACKED}, text_tower=tower)
    fetch_weights("tokenizers", "tiny", Path("weights/other.json"), WeightsConfig(shipped="encoder/bpe.txt.gz"))
    with pytest.raises(ShardError, match=r"but not from weights/other\.json in its current form"):
        text_files({"a": MANIFEST}, packed={"a": PACKED}, text_tower=tower, tokenizer=Path("weights/other.json"))
    write_pack(PACKED.parent, "a", [sample(key) for key in keys_of("a", 2)])
    with pytest.raises(ShardError, match=r"but not from data/pack/a\.json in its current form.* --force"):
        text_files({"a": MANIFEST}, packed={"a": PACKED}, text_tower=tower)
