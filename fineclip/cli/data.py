"""Verbs of the data stages. Stages are imported when their verb is called, so that `--help` answers at once."""

import argparse
from pathlib import Path

from fineclip.cli.options import Verbs, add_compute, add_job, add_tokenizer, one, section, stage_version
from fineclip.config import (
    BoxesJsonDetect,
    CaptionConfig,
    CaptionsJsonCaption,
    ConceptsConfig,
    DetectConfig,
    EncoderConfig,
    FilterConfig,
    PackConfig,
    SelectConfig,
    SourceConfig,
    WeightsConfig,
)
from fineclip.config.plan import ScaleConfig
from fineclip.errors import ConfigError


def add_verbs(verbs: Verbs) -> None:
    """weights, list, given, source, filter, select, detect, concepts, caption, pack, card, texts."""
    _add_inputs(verbs)
    _add_choices(verbs)
    _add_regions(verbs)
    _add_packed(verbs)


def _add_inputs(verbs: Verbs) -> None:
    """What is brought or looked at before any sample is judged: weights, list, given, source."""
    verb = add_job(verbs, "weights", _weights, about="bring the weights of one model, once, and record their hash")
    verb.add_argument(
        "--kind", required=True, choices=("detect", "caption", "encoders", "tokenizers"), help="catalogue it belongs to"
    )
    verb.add_argument("--name", required=True, help="its entry in the catalogue")

    add_job(verbs, "list", _list, about="read once what a folder or a COCO data set holds")

    verb = add_job(verbs, "given", _given, about="read once a JSON of boxes or captions that somebody released")
    verb.add_argument("--kind", required=True, choices=("detect", "caption"), help="catalogue it belongs to")
    verb.add_argument("--name", required=True, help="its entry in the catalogue")

    verb = add_job(
        verbs, "source", _source, about="take stock of one shard: a row for each sample, and where its bytes lie"
    )
    verb.add_argument("--shard", required=True, help="its name")
    verb.add_argument("--place", default="0/1", metavar="I/N", help="it is shard I of N, counted from 0")
    verb.add_argument("--listing", type=Path, nargs="*", default=[], help="manifest of `list` (kinds folder and coco)")
    verb.add_argument("--tars", nargs="*", default=[], help="the tars of the shard (kind webdataset)")


def _add_choices(verbs: Verbs) -> None:
    """Which samples there are: filter, select."""
    verb = add_job(verbs, "filter", _filter, about="keep or drop each image of a shard, by header, caption and hash")
    verb.add_argument("--source", type=Path, required=True, help="manifest of `source`")

    verb = add_job(verbs, "select", _select, about="draw a scale from filter tables")
    verb.add_argument("--scale", required=True, help="its name")
    verb.add_argument(
        "--filters", type=Path, nargs="+", required=True, help="manifests of `filter`, in the order of the shards"
    )
    verb.add_argument(
        "--benchmarks", type=Path, nargs="*", default=[], help="manifests of `index` whose images are left out"
    )


def _add_regions(verbs: Verbs) -> None:
    """What is in them: detect, concepts, caption."""
    verb = add_job(verbs, "detect", _detect, about="find regions in the kept images of a shard")
    verb.add_argument("--kept", type=Path, required=True, help="manifest of `filter`")
    verb.add_argument(
        "--weights", type=Path, nargs="*", default=[], help="manifest of `weights`, if the engine needs any"
    )
    verb.add_argument("--given", type=Path, nargs="*", default=[], help="manifest of `given`, if the engine needs one")
    add_compute(verb, batch_size=16)

    verb = add_job(verbs, "concepts", _concepts, about="name what the regions of a scale show")
    verb.add_argument("--select", type=Path, required=True, help="manifest of `select`")
    verb.add_argument(
        "--detected", type=Path, nargs="*", default=[], help="manifests of `detect`, for concepts from labels"
    )

    verb = add_job(verbs, "caption", _caption, about="caption the regions of a shard")
    verb.add_argument("--detected", type=Path, required=True, help="manifest of `detect`")
    verb.add_argument(
        "--weights", type=Path, nargs="*", default=[], help="manifest of `weights`, if the engine needs any"
    )
    verb.add_argument("--given", type=Path, nargs="*", default=[], help="manifest of `given`, if the engine needs one")
    add_compute(verb, batch_size=128)


def _add_packed(verbs: Verbs) -> None:
    """What trainings read: pack, card, texts."""
    verb = add_job(
        verbs, "pack", _pack, about="write the training shard: images, captions and regions in one WebDataset tar"
    )
    verb.add_argument("--captioned", type=Path, required=True, help="manifest of `caption`")

    verb = add_job(verbs, "card", _card, about="describe a packed data set, with counts from the first row to the last")
    verb.add_argument("--packed", type=Path, nargs="+", required=True, help="manifests of `pack`")

    verb = add_job(
        verbs, "texts", _texts, about="embed the captions of a shard once, for trainings whose text tower is frozen"
    )
    verb.add_argument("--packed", type=Path, required=True, help="manifest of `pack`")
    verb.add_argument("--weights", type=Path, nargs=1, required=True, help="manifest of `weights` of the encoder")
    add_tokenizer(verb)
    add_compute(verb, batch_size=64)


def _weights(options: argparse.Namespace) -> None:
    from fineclip.stages.weights import fetch_weights

    config = section(
        WeightsConfig, options.config, where=f"{options.kind}.{options.name}.weights", version=stage_version("weights")
    )
    fetch_weights(options.kind, options.name, options.manifest, config)


def _list(options: argparse.Namespace) -> None:
    from fineclip.stages.source.listing import list_samples

    list_samples(
        options.manifest, section(SourceConfig, options.config, where="source", version=stage_version("source"))
    )


def _given(options: argparse.Namespace) -> None:
    from fineclip.stages.given.reading import read_given

    model = BoxesJsonDetect if options.kind == "detect" else CaptionsJsonCaption
    where = f"{options.kind}.{options.name}"
    read_given(options.manifest, section(model, options.config, where=where, version=stage_version("given")))


def _source(options: argparse.Namespace) -> None:
    from fineclip.stages.source.plan import PlannedShard
    from fineclip.stages.source.shard import source_shard

    config = section(SourceConfig, options.config, where="source", version=stage_version("source"))
    position, _, of = options.place.partition("/")
    if not (position.isdigit() and of.isdigit() and int(position) < int(of)):
        raise ConfigError(f"--place {options.place}: expected I/N with 0 <= I < N, such as 0/4")
    shard = PlannedShard(name=options.shard, position=int(position), of=int(of), tars=tuple(options.tars))
    source_shard(shard, options.manifest, config, listing=one(options.listing))


def _filter(options: argparse.Namespace) -> None:
    from fineclip.stages.filter import filter_shard

    config = section(FilterConfig, options.config, where="filter", version=stage_version("filter"))
    filter_shard(options.source, options.manifest, config)


def _select(options: argparse.Namespace) -> None:
    from fineclip.stages.select import select_scale

    values = dict(options.config)
    scale = section(ScaleConfig, values.pop("scale", {}), where=f"scales.{options.scale}")
    config = section(SelectConfig, values, where="select", version=stage_version("select"))
    select_scale(options.filters, options.manifest, config, scale, benchmarks=options.benchmarks, name=options.scale)


def _detect(options: argparse.Namespace) -> None:
    from fineclip.stages.detect import detect_shard

    config = section(DetectConfig, options.config, where="detect", version=stage_version("detect"))
    detect_shard(
        options.kept,
        options.manifest,
        config,
        weights=one(options.weights),
        given=one(options.given),
        batch_size=options.batch_size,
        device=options.device,
    )


def _concepts(options: argparse.Namespace) -> None:
    from fineclip.stages.concepts import concepts_of_scale

    config = section(ConceptsConfig, options.config, where="concepts", version=stage_version("concepts"))
    concepts_of_scale(options.select, options.manifest, config, detected=options.detected)


def _caption(options: argparse.Namespace) -> None:
    from fineclip.stages.caption import caption_shard

    config = section(CaptionConfig, options.config, where="caption", version=stage_version("caption"))
    caption_shard(
        options.detected,
        options.manifest,
        config,
        weights=one(options.weights),
        given=one(options.given),
        batch_size=options.batch_size,
        device=options.device,
    )


def _pack(options: argparse.Namespace) -> None:
    from fineclip.stages.pack import pack_shard

    config = section(PackConfig, options.config, where="pack", version=stage_version("pack"))
    pack_shard(options.captioned, options.manifest, config)


def _card(options: argparse.Namespace) -> None:
    from fineclip.stages.card import write_card

    section(PackConfig, options.config, where="card", version=stage_version("card"))
    write_card(options.packed, options.manifest)


def _texts(options: argparse.Namespace) -> None:
    from fineclip.stages.texts import texts_shard

    config = section(EncoderConfig, options.config, where="encoders", version=stage_version("texts"))
    texts_shard(
        options.packed,
        options.weights[0],
        options.manifest,
        config,
        tokenizer=one(options.tokenizer),
        batch_size=options.batch_size,
        device=options.device,
    )
