"""The web has its flaws at the stated frequencies."""

import hashlib
import io
from collections import Counter

import pytest
from PIL import Image

from fineclip.miniature.flaws import BANNER_ASPECT, CAPTION_FLAWS, IMAGE_FLAWS, THUMBNAIL_PX
from fineclip.miniature.seeds import DEMO
from fineclip.miniature.web import SHARES, WebItem, web_item
from fineclip.miniature.wording import BOILERPLATE_TEXTS
from tests.helpers.web import true_counts

PER_SHARD = 150
ITEMS = [web_item(DEMO, index, items_per_shard=PER_SHARD) for index in range(3 * PER_SHARD)]


def size_of(item: WebItem) -> tuple[int, int] | None:
    try:
        return Image.open(io.BytesIO(item.image)).size
    except OSError:
        return None


def decodes(item: WebItem) -> bool:
    try:
        Image.open(io.BytesIO(item.image)).load()
    except OSError:
        return False
    return True


def with_truth(truth: str | None) -> list[WebItem]:
    found = [item for item in ITEMS if item.truth == truth]
    assert found
    return found


def test_an_item_can_be_made_alone() -> None:
    for index in (0, 1, PER_SHARD, 3 * PER_SHARD - 1):
        assert web_item(DEMO, index, items_per_shard=PER_SHARD) == ITEMS[index]
    for truth in SHARES:
        item = with_truth(truth)[-1]
        assert web_item(DEMO, item.index, items_per_shard=PER_SHARD) == item


def test_every_truth_occurs_about_as_often_as_it_should() -> None:
    counts = true_counts(DEMO, 20_000, items_per_shard=1_000)
    assert set(counts) == set(SHARES) == {*IMAGE_FLAWS, *CAPTION_FLAWS, "duplicate", "repeated"}
    for truth, share in SHARES.items():
        allowed = 0.35 if truth == "repeated" else 0.2  # the first shard has nothing to repeat, others try in vain
        assert counts[truth] / 20_000 == pytest.approx(share, rel=allowed)


def test_counts_are_those_of_the_items() -> None:
    counts = Counter(item.truth for item in ITEMS if item.truth is not None)
    assert true_counts(DEMO, 3 * PER_SHARD, items_per_shard=PER_SHARD) == counts


def test_flawless_items_are_flawless() -> None:
    for item in with_truth(None):
        size = size_of(item)
        assert size is not None
        assert decodes(item)
        assert min(size) >= 128
        assert max(size) <= 2 * min(size)
        assert len(item.captions[0].split()) >= 2
        assert item.captions[0] not in BOILERPLATE_TEXTS


def test_unreadable_headers() -> None:
    assert all(size_of(item) is None for item in with_truth("unreadable"))


def test_truncated_files_have_a_header_and_no_pixels() -> None:
    for item in with_truth("undecodable"):
        assert size_of(item) is not None
        assert not decodes(item)


def test_thumbnails_and_banners() -> None:
    for item in with_truth("too-small"):
        assert min(size_of(item)) <= THUMBNAIL_PX[1]
    for item in with_truth("too-elongated"):
        width, height = size_of(item)
        assert height >= 128
        assert width / height > BANNER_ASPECT[0] - 0.01


def test_texts() -> None:
    assert {item.captions for item in with_truth("caption-empty")} == {("",)}
    assert all(len(item.captions[0].split()) == 1 for item in with_truth("caption-short"))
    assert all(item.captions[0] in BOILERPLATE_TEXTS for item in with_truth("caption-boilerplate"))


def test_copies_are_what_hashes_find() -> None:
    first_seen: dict[str, int] = {}
    for item in ITEMS:
        digest = hashlib.sha256(item.image).hexdigest()
        shard, original = item.index // PER_SHARD, first_seen.setdefault(digest, item.index)
        if item.truth == "duplicate":
            assert original < item.index
        elif item.truth == "repeated":
            assert original // PER_SHARD < shard
        elif item.image not in {b""} and item.truth != "unreadable":
            assert original == item.index


def test_a_shard_repeats_nothing_twice() -> None:
    for start in range(0, len(ITEMS), PER_SHARD):
        repeated = [item.image for item in ITEMS[start : start + PER_SHARD] if item.truth == "repeated"]
        assert len(set(repeated)) == len(repeated)


def test_a_web_without_flaws() -> None:
    assert all(web_item(DEMO, index, items_per_shard=5, shares={}).truth is None for index in range(5))


def test_keys_and_addresses_are_unique() -> None:
    assert len({item.source_key for item in ITEMS}) == len({item.url for item in ITEMS}) == len(ITEMS)
    assert all("." not in item.source_key for item in ITEMS)
