from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner

from lpx.cli.main import cli
from lpx.cli.option_names import command_of, error_text
from lpx.errors import LpxError
from lpx.models.checkpoint import load_checkpoint


def test_missing_lightning_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lightning", None)
    for name in list(sys.modules):
        if name.startswith("lpx.training."):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(LpxError, match=r"training needs lightning") as caught:
        CliRunner().invoke(
            cli, ["train", "--data", str(tmp_path), "--out", "x.pt"], catch_exceptions=False
        )
    assert 'pip install "lpx[train]"' in caught.value.fix


def test_weights_that_do_not_exist(tmp_path):
    pytest.importorskip("lightning", reason="training needs lpx[train]")
    arguments = ["train", "--data", str(tmp_path), "--out", str(tmp_path / "x.pt")]
    with pytest.raises(LpxError, match="no_such_file does not exist"):
        CliRunner().invoke(cli, [*arguments, "--weights", "no_such_file"], catch_exceptions=False)


def test_trains_and_prints_one_object(tmp_path):
    pytest.importorskip("lightning", reason="training needs lpx[train]")
    from lpx.data.face_sets.demo import folder

    # The demo's faces are for calibration and for the test: this folder says otherwise.
    data = tmp_path / "faces"
    data.mkdir()
    rows = ["file,identity,split"]
    for name, split in (("p000_00.jpg", "train"), ("p001_00.jpg", "train"), ("p002_00.jpg", "val")):
        (data / name).write_bytes((folder() / name).read_bytes())
        rows.append(f"{name},{name[:4]},{split}")
    (data / "landmarks.npz").write_bytes((folder() / "landmarks.npz").read_bytes())
    (data / "faces.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "ckpt.pt"
    result = CliRunner().invoke(
        cli,
        f"train --data {data} --out {out} --pseudo-fakes sbi --backbone efficientnet_lite0 "
        "--cut stage2 --input-size 48 --steps 2 --steps-per-epoch 1 --pairs 2 "
        "--validation-pairs 4 --workers 0 --json".split(),
    )
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["checkpoint"] == str(out)
    assert 0 <= values["validation_auc"] <= 1
    assert values["held_out_auc"] == {}
    assert out.is_file()
    command = load_checkpoint(out).card.provenance["command"]
    assert command == (
        "lpx train --data FACES --out ckpt.pt --pseudo-fakes sbi --backbone efficientnet_lite0 "
        "--cut stage2 --bottleneck 128 --aggregate mean_prob --supervision indirect "
        "--input-size 48 --ld 0.1 --ld-form hinge --ld-on all --ld-grid 4 --ld-margin 0.0 "
        "--steps 2 --steps-per-epoch 1 --pairs 2 --lr 0.0005 --patience 0 --validation-pairs 4 "
        "--fpr 0.1 --seed 0"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--ld -1", "--ld must be >= 0 (got -1.0)"),
        ("--ld-form cosine", "--ld-form must be one of hinge, closed, gram, margin_l2"),
        ("--ld-grid 1", "--ld-grid must be >= 2"),
        ("--lr 0", "--lr must be > 0"),
        ("--pseudo-fakes gan", "--pseudo-fakes must be one of sbi, alpha, poisson (got 'gan')"),
        ("--aggregate topk --aggregate-parameter 2", "--aggregate-parameter must be > 0 and <= 1"),
        ("--devices two", '--devices must be "auto"'),
        ("--workers -1", "--workers must be >= 0"),
        ("--nodes 0", "--nodes must be >= 1"),
        ("--wait 0", "--wait must be > 0"),
    ],
)
def test_errors_name_the_options(tmp_path, options, said):
    pytest.importorskip("lightning", reason="training needs lpx[train]")
    arguments = ["train", "--data", str(tmp_path), "--out", str(tmp_path / "x.pt")]
    with pytest.raises(LpxError) as caught:
        CliRunner().invoke(cli, [*arguments, *options.split()], catch_exceptions=False)
    assert error_text(caught.value, command_of(cli, arguments)).startswith(said)


def test_plain_features_are_recorded():
    pytest.importorskip("lightning", reason="training needs lpx[train]")
    from lpx.cli.train import command_line
    from lpx.training.local_diversity import LocalDiversity
    from lpx.training.recipe import Recipe

    recipe = Recipe(diversity=LocalDiversity(evidence=False))
    command = command_line(recipe, starts_from_weights=True)
    assert command.endswith(" --ld-plain")
    assert " --weights FILE " in command
    assert command_line(Recipe(), starts_from_weights=False).endswith("--seed 0")


def test_ablation_refuses_variants_that_are_none(tmp_path):
    pytest.importorskip("lightning", reason="training needs lpx[train]")
    arguments = ["ablate", "--data", str(tmp_path), "--out", str(tmp_path), "--variants", "half"]
    with pytest.raises(LpxError) as caught:
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert error_text(caught.value, command_of(cli, arguments)).startswith("--variants must be")


def test_ablation_takes_devices_and_strategy(tmp_path):
    pytest.importorskip("lightning", reason="training needs lpx[train]")
    arguments = ["ablate", "--data", str(tmp_path), "--out", str(tmp_path), "--devices", "two"]
    with pytest.raises(LpxError) as caught:
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    text = error_text(caught.value, command_of(cli, arguments))
    assert text.startswith('--devices must be "auto"')
