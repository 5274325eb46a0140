"""Fits of towers in half the bits, and by several processes together, beside those of one process in float32."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import circle
import numpy as np
import pytest
import torch
import town
from planted import clusters

from encoders import EncoderError
from encoders.device import Capabilities
from ranking import bundle
from ranking.team import Team
from ranking.towers import Towers
from ranking.train import fit_towers
from streams import trainer
from streams.settings import Settings
from streams.together import NEEDED, TogetherError, together

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parent.parent
ONE_GPU = Capabilities(gpus=("planted GPU",), gpu_bfloat16=True)
FAST_CPU = Capabilities(cpu_bfloat16="amx", cpu_gain=lambda: 2.0)


def by_two(*arguments: object, **more: str) -> str:
    """Run a program in two processes that meet on this machine, and return what they printed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, arguments)],
        cwd=ROOT,
        env=own | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | more,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_the_bits_learn_the_same(dtype: str) -> None:
    """In half the bits the loss falls as in float32, and the weights stay float32."""
    whole, half = circle.fit(circle.PLAN), circle.fit(replace(circle.PLAN, dtype=dtype))
    assert whole.held_out[-1] < 0.4 * whole.held_out[0]
    assert half.digest != whole.digest
    np.testing.assert_allclose(half.held_out, whole.held_out, rtol=0.1, atol=0.05)
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in half.towers.arrays().values())


@pytest.mark.parametrize("epochs", [1, 2, 3, 9, 10, 11, 20])
def test_a_fit_may_have_any_number_of_steps(epochs: int) -> None:
    """The rate rises and falls in as many steps as there are: ten were one too few once."""
    made = circle.fit(replace(circle.PLAN, epochs=epochs, patience=epochs, batch=400))
    assert len(made.lost) == epochs
    assert np.isfinite(made.held_out).all()


def test_two_processes_fit_the_same_towers(tmp_path: Path) -> None:
    """Two processes that divide each batch end with the same towers, bit by bit: but for rounding those of one process."""
    by_two("tests/circle.py", tmp_path)
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == two
    alone = circle.fit(circle.EXACT)
    np.testing.assert_allclose(one["lost"], alone.lost, rtol=1e-3)
    np.testing.assert_allclose(one["held_out"], alone.held_out, rtol=1e-3)
    assert alone.held_out[-1] < 0.4 * alone.held_out[0]


def test_a_team_is_no_larger_than_a_batch() -> None:
    """Processes that would have no example of a batch are refused before the first step."""
    plan = replace(circle.PLAN, batch=400, team=Team(0, 401))
    vectors, rows = clusters(circle.ITEMS, 1, circle.SHAPE.dim), np.arange(1, circle.ITEMS + 1)
    with pytest.raises(ValueError, match="401 processes cannot share 400 examples in batches of 400: start fewer"):
        fit_towers(Towers(circle.SHAPE), vectors, rows, circle.examples(400, 1), None, plan)


def test_two_processes_train_one_bundle(tmp_path: Path) -> None:
    """`train` in two processes speaks and writes once, and goes on from what is finished."""
    events, items = town.write(tmp_path, town.events(), town.items())
    kept, out = tmp_path / "kept", tmp_path / "model"
    command = ("-m", "streams", "train", "--events", events, "--items", items, "--out", out, "--resume", kept)
    options = (*command, "--epochs", 3, "--width", 16)
    said = by_two(*options, HEADRACE_ENCODER="hashing", HEADRACE_CACHE_DIR=str(tmp_path / "cache"))
    made = bundle.load(out)
    assert said.count("the towers are fitted on cpu in float32, in each of 2 processes\n") == 1
    assert said.count(f"{out} holds model {made.head.version}; next: headrace model publish {out} --use\n") == 1
    told = made.head.report["held_out"]["recall"]
    assert told["headrace"] > 0.75 > told["headrace, zero-shot"]
    assert len(list(kept.iterdir())) == 3
    again = by_two(*options, HEADRACE_ENCODER="hashing", HEADRACE_CACHE_DIR=str(tmp_path / "cache"))
    assert f"finished before, and taken from {kept}: towers, ranker, last towers\n" in again
    assert bundle.load(out).head.version == made.head.version


@pytest.mark.parametrize(
    ("machine", "device", "dtype", "expected"),
    [
        (FAST_CPU, "auto", "auto", ("cpu", "float32")),
        (FAST_CPU, "auto", "bfloat16", ("cpu", "bfloat16")),
        (ONE_GPU, "auto", "auto", ("cuda:0", "bfloat16")),
        (ONE_GPU, "auto", "float32", ("cuda:0", "float32")),
        (ONE_GPU, "cpu", "auto", ("cpu", "float32")),
        (replace(ONE_GPU, gpu_bfloat16=False), "cuda", "auto", ("cuda:0", "float16")),
    ],
)
def test_a_fit_is_where_and_as_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, machine: Capabilities, device: str, dtype: str, expected: tuple[str, str]
) -> None:
    """On a GPU a fit is in what the encoder is in; on a CPU it is in float32 unless another format is set."""
    monkeypatch.setattr(trainer, "probe", lambda: machine)
    plan = trainer.plan_for(Settings(dtype=dtype), 1, 3, device)  # type: ignore[arg-type]
    assert (plan.device, plan.dtype) == expected


def test_a_format_that_a_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 on a CPU is refused as it is for an encoder."""
    monkeypatch.setattr(trainer, "probe", lambda: FAST_CPU)
    with pytest.raises(EncoderError, match="'float16' is slow and inexact on a CPU"):
        trainer.plan_for(Settings(dtype="float16"), 1, 3, "auto")


class TestTogether:
    """What the environment says of other processes."""

    @pytest.fixture
    def second(self, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
        """The environment of the second of two processes."""
        monkeypatch.setenv("WORLD_SIZE", "2")
        for name in NEEDED:
            monkeypatch.setenv(name, "1")
        return monkeypatch

    @pytest.mark.parametrize("size", [None, "1"])
    def test_alone(self, monkeypatch: pytest.MonkeyPatch, size: str | None) -> None:
        """Without torchrun, and in its only process, a training is alone and has the device of the settings."""
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if size is not None:
            monkeypatch.setenv("WORLD_SIZE", size)
        with together("cuda:1") as (team, device):
            assert (team, device) == (Team(), "cuda:1")

    def test_half_an_environment(self, second: pytest.MonkeyPatch) -> None:
        """A number of processes that nobody started is refused."""
        second.delenv("RANK")
        second.delenv("MASTER_PORT")
        with (
            pytest.raises(TogetherError, match=r"WORLD_SIZE is 2, but RANK, MASTER_PORT is not set: start .* with torchrun"),
            together("auto"),
        ):
            pass

    @pytest.mark.parametrize(
        ("device", "part"),
        [
            ("cuda:0", "several processes cannot share HEADRACE_DEVICE=cuda:0: set it to auto, cuda or cpu"),
            ("cuda", r"process 1 of this machine finds 1 GPU\(s\): start one process for each GPU"),
        ],
    )
    def test_a_gpu_for_each(self, second: pytest.MonkeyPatch, device: str, part: str) -> None:
        """Two processes never share a GPU."""
        second.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(TogetherError, match=part), together(device):
            pass
