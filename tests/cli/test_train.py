from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner

from lpx.cli.main import cli
from lpx.errors import LpxError


def test_missing_lightning_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lightning", None)
    for name in list(sys.modules):
        if name.startswith("lpx.training.") and name.rsplit(".", 1)[1] in ("fit", "module"):
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
