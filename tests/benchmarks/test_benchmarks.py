"""That every benchmark runs, on things small enough for a test; what they compare is equal. No time is judged here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import exact, gather, gpu
from benchmarks.card import PRESET, Case, card_figures, preset
from benchmarks.figures import Figure, figures_of, ratio_to_limit, ratio_to_plain, write
from benchmarks.inputs import build_method, random_encoder, random_step
from benchmarks.loader import Case as Photographs
from benchmarks.loader import case_figures
from benchmarks.photos import bits_per_pixel, photographs, sample_of
from benchmarks.plain_loader import OfficialLoader
from benchmarks.step import OURS, RELAXED, SAME, step_figures, variants
from benchmarks.table import BEGIN, END, PAGES, insert_table, read_results, render
from benchmarks.timing import time_alternately
from fineclip.config.methods import FineCLIPConfig
from fineclip.config.training import LoaderConfig
from fineclip.methods.fineclip import FineCLIP
from fineclip.methods.transforms import DataSpec, sample_rng
from fineclip.models.images import normalize_pixels
from fineclip.models.tokenizer import Tokenizer
from tests.helpers.encoders import encoder_config
from tests.helpers.tiny import ARCHITECTURE

ROOT = Path(__file__).parents[2]
SIDE = 32


def eva(folder: Path) -> str:
    return encoder_config(folder, "eva").model


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_table_of_a_page_is_what_the_results_say(page: Path) -> None:
    text, table = (ROOT / page).read_text(encoding="utf-8"), render(read_results(), select=PAGES[page])
    assert table
    assert insert_table(text, table) == text


def test_figures_are_judged_by_their_ratio_or_by_themselves() -> None:
    assert ratio_to_plain("a", "s", 6, 2, target=3).met and not ratio_to_plain("a", "s", 6, 2, target=3.1).met
    assert ratio_to_limit("b", "ms", 2, 5, against="decoding", target=2.5).met
    assert Figure("c", "", ours=2, target=1, side="at most").met is False
    assert ratio_to_plain("a", "s", 6, 2).met is None


def test_results_are_kept_benchmark_by_benchmark(tmp_path: Path) -> None:
    first, second = ratio_to_plain("a", "s", 6, 2, target=3, spread={"ours": (2, 3)}), Figure("b", "GB", ours=1)
    write("step", [second], load=(1, 1, 1), folder=tmp_path)
    write("step", [first], load=(1, 1, 1), folder=tmp_path)
    path = write("exact", [second], load=(1, 1, 1), folder=tmp_path)
    content = json.loads(path.read_text())
    assert figures_of(content, "exact") == [second] and figures_of(content, "gpu") == []
    assert content["benchmarks"]["step"]["figures"][0]["met"] is True
    assert content["machine"]["cores"] >= 1 and torch.__version__.startswith(content["versions"]["torch"])
    table = render([content], select=lambda _: True)
    assert table.index("| b | ") < table.index("| a | 6 s | 2 s | 3.00x | >= 3x, met |")
    assert insert_table(f"x\n{BEGIN}\nold\n{END}\ny", table).count("| a |") == 1
    with pytest.raises(ValueError, match="no lines"):
        insert_table("x", table)


def test_variants_take_turns() -> None:
    order: list[str] = []
    found = time_alternately(
        {name: lambda name=name: order.append(name) for name in "ab"}, repeats=3, clock=lambda: len(order)
    )
    assert "".join(order) == "abababab"
    assert found["a"].all == (1, 1, 1) and found["a"].per(2).least == 0.5


def test_exact_figures_of_a_tiny_encoder(tmp_path: Path) -> None:
    sizes = exact.Sizes(model=eva(tmp_path), px=SIDE, few=3, many=6, chunks=(3, 1))
    method = build_method(random_encoder(sizes.model, size=SIDE))
    plain, counted = exact.flops_figures(method, sizes)
    assert plain.judged > 1.25 and 0.9 < counted.judged < 1.1
    whole, large, small, checkpointed = (figure.judged for figure in exact.memory_figures(method, sizes))
    assert 1 < whole < large < small and checkpointed > whole
    assert not method.encoder.trunk.checkpointing
    sent = exact.sent_figure(method, sizes)
    assert sent.ours * 1e6 == pytest.approx(7 * 3 * SIDE**2, rel=0.1) and sent.judged > 10


def test_calls_of_a_step_in_two_processes(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(ARCHITECTURE))
    waits, collectives = exact.call_figures(exact.Sizes(model=str(path), px=16))
    assert waits.ours == 1
    assert collectives.ours >= 4 and "allgather_base 5" in collectives.note  # counts, and both sides of two contrasts


def test_the_preset_of_one_card_is_runtime_alone_and_chooses_chunks(tmp_path: Path) -> None:
    assert preset().memory_gb == 22
    assert set(PRESET.read_text().split("\n\n")[-1].split("\n")[0:1]) == {"runtime:"}
    [figure] = card_figures([Case(eva(tmp_path), SIDE)], images=4, regions=2)
    assert figure.met and figure.reference == figure.ours and "all images" in figure.note


def test_photographs_are_as_large_as_coco_s() -> None:
    size = (160, 120)
    jpegs = photographs(size, 2)
    assert jpegs == photographs(size, 2) and jpegs[0] != jpegs[1]
    assert 2.2 < bits_per_pixel(jpegs, size) <= 2.8


def test_photographs_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no .jpg"):
        photographs((64, 48), 1, folder=tmp_path)
    (tmp_path / "one.jpg").write_bytes(photographs((64, 48), 1)[0])
    same, other = photographs((64, 48), 1, folder=tmp_path), photographs((32, 32), 2, folder=tmp_path)
    assert same == photographs((64, 48), 1) and len(other) == 2


def test_the_official_loader_gives_the_pixels_that_ours_gives_by_pillow() -> None:
    size = (96, 80)
    sample = sample_of(photographs(size, 1)[0], size, boxes=3, seed=5)
    tokenize = Tokenizer(context_length=77)
    image, boxes_K5, crops_K3SS, _, _ = OfficialLoader(tokenize, size=SIDE).item(sample, np.random.default_rng(0))
    inputs = DataSpec(tokenize, SIDE, SIDE, loader=LoaderConfig(image_backend="pillow"))
    item = FineCLIP.build_transform(inputs, FineCLIPConfig(), max_regions=20)(sample, sample_rng(0, 0, sample.key))
    torch.testing.assert_close(image, normalize_pixels(item.image), atol=1e-5, rtol=0)
    assert item.crops is not None and item.boxes is not None
    order = np.random.default_rng(0).permutation(3)
    torch.testing.assert_close(boxes_K5[:3, :4], item.boxes[order], atol=1e-6, rtol=0)
    torch.testing.assert_close(crops_K3SS[:3], normalize_pixels(torch.stack(item.crops)[order]), atol=1e-5, rtol=0)
    assert not crops_K3SS[3:].any()


def test_the_loader_s_benchmark_runs() -> None:
    size = (64, 48)
    found = case_figures(Photographs("small", size, 2, 1, 1), photographs(size, 2), repeats=1)
    assert [figure.target for figure in found] == [1, 1, None, None]
    assert all(figure.ratio and figure.ratio > 0 and figure.spread for figure in found)


def test_both_ways_to_gather_give_the_same_rows() -> None:
    rows = gather.random_rows(processes=3, slots=6, width=4)
    with gather.fake_process_group(3):
        by_rows, in_blocks = gather.official(rows)(), gather.ours(rows)()
    assert by_rows.shape == in_blocks.shape == (sum(rows.counts), 4)
    torch.testing.assert_close(by_rows[: rows.counts[0]], rows.padded[0][: rows.counts[0]])


def test_the_step_s_benchmark_runs(tmp_path: Path) -> None:
    encoder = random_encoder(eva(tmp_path), size=SIDE)
    step = random_step(encoder, [2, 2], size=SIDE)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    figures = step_figures(encoder, step, repeats=1)
    assert [figure.target for figure in figures] == [1.3, None, 2.2, None, None, None]
    assert set(variants(encoder, step)) >= {OURS, SAME, RELAXED}
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)


def test_the_gpu_s_benchmark_runs_on_a_cpu_too(tmp_path: Path) -> None:
    arms = [arm for arm in gpu.ARMS if not arm.compiled]
    found = gpu.measure(torch.device("cpu"), repeats=1, size=(eva(tmp_path), SIDE), images=2, arms=arms)
    steps = [figure for figure in found if figure.name.endswith(": step")]
    assert len(steps) == len(arms) and sum(figure.ratio is None for figure in steps) == 1
    assert not any("MFU" in figure.name for figure in found)  # the peak of a CPU is not known
    [peak] = gpu.card_peaks(torch.device("cpu"), [Case(eva(tmp_path), SIDE)], images=2)
    assert peak.target == 22 and "a time" in peak.note
