"""`serve --variant`, from its texts to a server of several models."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from narsil_client import Client
from narsil_graph.build import EngineConfig
from narsil_graph.engine.graph_options import Kernels
from narsil_graph.engine.launcher import Precision
from narsil_graph.errors import UsageFailure
from narsil_graph.model.spec import ModelSpec
from narsil_graph.model.weights import Model, save_model
from narsil_graph.variants_config import VariantConfig, difference_of, parse_variants
from tests.engine.tiny import Shape, tiny_model
from tests.serving.peers import Peer, assert_right, one_hot
from tests.serving.processes import DEMO, ServerProcess, narsil, only_sentence

ENGINE = EngineConfig(device="cpu", bucket_rows=(1, 8))


def parsed(*variants: str, shadow: tuple[str, ...] = (), split: tuple[str, ...] = ()) -> tuple[VariantConfig, ...]:
    return parse_variants(variants, shadows=shadow, splits=split, engine=ENGINE)


def test_variants_run_as_the_main_model_does_but_for_their_own_settings() -> None:
    first, second = parsed("B=new=1.bin", "C=dir/c,precision=bf16", shadow=("C",), split=("B=2.5%",))
    assert first == VariantConfig(name="B", model=Path("new=1.bin"), engine=ENGINE, share=0.025)
    own = replace(ENGINE, precision=Precision.BF16)
    assert second == VariantConfig(name="C", model=Path("dir/c"), engine=own, share=0.0)
    assert [each.line() for each in (first, second)] == ["B:f32:0.025", "C:bf16:shadow"]


def test_kernels_are_a_setting_of_a_variant() -> None:
    engine = EngineConfig(device="cuda", bucket_rows=(1,))
    (only,) = parse_variants(["B=m,kernels=triton"], shadows=["B"], splits=[], engine=engine)
    assert only.engine.kernels is Kernels.TRITON


@pytest.mark.parametrize(
    ("variants", "shadow", "split", "words"),
    [
        (["B"], ["B"], [], "--variant 'B': want NAME=MODEL"),
        (["B="], ["B"], [], "--variant 'B=': want NAME=MODEL"),
        (["=m"], [], [], "want NAME=MODEL"),
        (["b c=m"], [], [], "want NAME=MODEL"),
        (["A=m"], ["A"], [], "A is the model of --model"),
        (["B=m,colour=red"], ["B"], [], "want NAME=MODEL"),
        (["B=m,precision=bf16,precision=f32"], ["B"], [], "want NAME=MODEL"),
        (["B=m,precision=f8"], ["B"], [], "there is no precision 'f8'"),
        (["B=m,precision=fp16"], ["B"], [], "--precision fp16 does not run on --device cpu"),
        (["B=m,kernels=triton"], ["B"], [], "--kernels is for --device cuda"),
        (["B=m", "B=n"], ["B"], [], "--variant B is there twice"),
        (["B=m"], [], [], "--variant B is never used: say --shadow B or --split B=10%"),
        (["B=m"], ["B"], ["B=10%"], "B is in --shadow or --split twice"),
        (["B=m"], ["B", "B"], [], "B is in --shadow or --split twice"),
        (["B=m"], ["B", "C"], [], "of which there is no --variant C=MODEL"),
        (["B=m"], [], ["B"], "--split 'B': want NAME=PERCENT%"),
        (["B=m"], [], ["B=10"], "want NAME=PERCENT%"),
        (["B=m"], [], ["B=ten%"], "want NAME=PERCENT%"),
        (["B=m"], [], ["B=0%"], "want NAME=PERCENT%"),
        (["B=m"], [], ["B=nan%"], "want NAME=PERCENT%"),
        (["B=m", "C=m"], [], ["B=50%", "C=50%"], "the shares want to be below 100% together"),
    ],
)
def test_wrong_text_is_a_usage_failure(variants: list[str], shadow: list[str], split: list[str], words: str) -> None:
    with pytest.raises(UsageFailure, match=re.escape(words)):
        parse_variants(variants, shadows=shadow, splits=split, engine=ENGINE)


def spec_of(**changes: Any) -> ModelSpec:
    return Shape(**changes).spec()


@pytest.mark.parametrize(
    ("other", "want"),
    [
        ({"dim": 16, "dense_hidden": (4, 4)}, None),
        ({"dense_features": 2}, "it has other dense features (2 instead of 3)"),
        ({"table_rows": (17, 5)}, "it has other sparse features (2 instead of 3)"),
        ({"table_rows": (17, 6, 9)}, "it has other table sizes (6 instead of 5)"),
    ],
)
def test_models_of_the_same_requests_may_differ_in_all_else(other: dict[str, Any], want: str | None) -> None:
    assert difference_of(spec_of(), spec_of(**other)) == want


def test_server_scores_by_all_its_models_and_tells_of_each(tmp_path: Path, model: Model) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(
        f'variant = ["B={DEMO},precision=bf16", "C={DEMO}"]\nshadow = "B"\nsplit = ["C=40%"]\nbuckets = [8]\n'
    )
    request = one_hot(model, 5)
    with ServerProcess(tmp_path, "--config", config) as server, Client(server.endpoint) as client:
        assert " variants=B:bf16:shadow,C:f32:0.4 " in server.ready_line
        asked = [client.predict(dense=request.dense, ids=request.ids, key=f"u{key}") for key in range(40)]
        for scores in asked:
            assert_right(scores.scores, model, request)
        names = [scores.variant for scores in asked]
        assert set(names) == {"A", "C"}
        with Peer(server.endpoint) as peer:
            while (variants := peer.metadata().meta["variants"])["B"]["requests"] < names.count("A"):
                pass
        assert {name: each["requests"] for name, each in variants.items()} == {
            "A": names.count("A"),
            "B": names.count("A"),
            "C": names.count("C"),
        }
        assert variants["B"]["agreement"]["score_max_diff"] < 5e-2
        assert variants["C"]["buckets"]["8"]["rows"] >= 5 * names.count("C")
        assert server.stop() == 0, server.log


def test_every_worker_has_the_variants(tmp_path: Path) -> None:
    ended = narsil(
        *("serve", "--dry-run", "--workers", "2", "--buckets", "1", "--bind", f"ipc://{tmp_path}/s"),
        *("--variant", f"B={DEMO}", "--variant", f"C={DEMO}", "--shadow", "B", "--split", "C=10%"),
    )
    assert ended.returncode == 0, ended.stderr
    assert (ended.stdout + ended.stderr).count(" variants=B:f32:shadow,C:f32:0.1 ") == 2


def test_model_of_other_requests_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    other = tmp_path / "tiny.safetensors"
    save_model(tiny_model(), other)
    ended = narsil(
        "serve", "--buckets", "1", "--bind", f"ipc://{tmp_path}/s", "--variant", f"B={other}", "--shadow", "B"
    )
    assert ended.returncode == 2
    assert only_sentence(ended).startswith(
        f"--variant B cannot take the requests of {DEMO}: it has other dense features"
    )
