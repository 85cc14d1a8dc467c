"""`lpx remote`: its command line, without a board."""

from __future__ import annotations

import pytest

from lpx.artefacts.plan_file import write_plan
from lpx.cli.main import cli
from lpx.cli.option_names import command_of
from lpx.cli.remote_command import remote_command
from lpx.errors import LpxError
from lpx.graph.qdq.plan import LayerPlan, PrecisionPlan


def test_command_of_a_line():
    command = command_of(cli, ["remote", "jetson", "setup", "--python", "x"])
    assert command.name == "setup"


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("build", ["--int8", "--fp32"], ["build", "--fp32", "--int8"]),
        ("build", ["--batch", "1,8", "-w", "x"], ["build", "--batch=1,8"]),
        ("build", ["--no-bias-correction"], ["build", "--no-bias-correction"]),
        ("build", ["--bias-correction"], ["build", "--bias-correction"]),
        ("build", ["--faces", "demo"], ["build", "--faces=demo"]),
        ("bench", ["--dataset", "demo", "--json"], ["bench", "--dataset=demo", "--json"]),
        ("doctor", [], ["doctor"]),
        (
            "bench",
            ["--dataset", "ffpp-c23", "--data-root", "/d", "--margin=0.01"],
            ["bench", "--dataset=lpx-out/faces", "--margin=0.01"],
        ),
    ],
)
def test_words(name, arguments, words, monkeypatch):
    monkeypatch.delenv("LPX_FACES", raising=False)
    assert remote_command(name, arguments).words == words


def test_faces_of_a_bench(tmp_path):
    made = remote_command("bench", ["--dataset", "ffpp-c23", "--limit", "9", "--store", "/s"])
    assert (made.faces, made.limit) == ("ffpp-c23", 9)
    assert str(made.places.store) == "/s"
    # Which faces remain is known after the methods were chosen.
    made = remote_command("bench", ["--dataset", "x", "--limit", "9", "--method", "Face2Face"])
    assert made.limit is None
    assert "--limit=9" in made.words


def test_pictures_of_predict(tmp_path):
    made = remote_command("predict", ["--crops", str(tmp_path), "-w", "other"])
    assert list(made.inputs.values()) == [tmp_path]
    assert made.words == ["predict", "--crops", "--", *made.inputs]
    assert str(made.workspace.root) == "other"


def test_a_file_whose_name_begins_with_a_hyphen():
    made = remote_command("predict", ["--", "-x.png"])
    assert str(next(iter(made.inputs.values()))) == "-x.png"
    assert made.words[-2] == "--"


def test_faces_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LPX_FACES", str(tmp_path))
    made = remote_command("build", ["--int8"])
    assert list(made.inputs.values()) == [tmp_path]


def test_plan_of_a_build_is_sent(monkeypatch, tmp_path):
    monkeypatch.delenv("LPX_FACES", raising=False)
    path = tmp_path / "plan.json"
    with pytest.raises(LpxError, match="does not exist"):
        remote_command("build", ["--plan", str(path)])
    write_plan(path, PrecisionPlan({"conv": LayerPlan("float")}))
    made = remote_command("build", ["--plan", str(path)])
    ((placeholder, sent),) = made.inputs.items()
    assert sent == path
    assert made.words == ["build", f"--plan={placeholder}"]


def test_faces_of_a_build_must_be_here():
    with pytest.raises(LpxError) as caught:
        remote_command("build", ["--faces", "ffpp-c23"])
    assert caught.value.code == "not-found"
    assert "lpx build --int8 --faces ffpp-c23" in caught.value.fix


def test_faces_of_a_search_are_sent(tmp_path):
    words = ["--int8", "--search", "--search-faces", str(tmp_path), "--margin", "0.01"]
    made = remote_command("build", words)
    ((placeholder, sent),) = made.inputs.items()
    assert sent == tmp_path
    assert f"--search-faces={placeholder}" in made.words
    assert "--margin=0.01" in made.words
    with pytest.raises(LpxError, match="ffpp-c23 cannot be sent"):
        remote_command("sensitivity", ["--search-faces", "ffpp-c23"])
    assert not remote_command("sensitivity", ["--search-faces", "demo"]).inputs


@pytest.mark.parametrize(
    "line",
    [
        ["build", "--out", "x", "--emit", "trtexec"],
        ["predict", "x", "--out", "y"],
        ["bench", "--dataset", "demo", "--import-trtexec", "x"],
    ],
)
def test_options_that_name_files_here(lpx, line):
    done = lpx("remote", "jetson", *line)
    assert done.code == 2
    assert "cannot be used on a board" in done.err
    assert "`" not in done.err


@pytest.mark.parametrize("name", ["export", "train", "pack", "data", "remote", "nonsense"])
def test_commands_that_belong_here(lpx, name):
    done = lpx("remote", "jetson", "run", name)
    assert done.code == 2
    assert f"{name} cannot run on a board" in done.err


def test_mistakes_are_found_before_anything_is_sent(lpx):
    assert "No such option" in lpx("remote", "jetson", "build", "--nope").err
    assert "Missing option" in lpx("remote", "jetson", "bench").err
    assert "is not a valid integer" in lpx("remote", "jetson", "build", "--limit", "x").err


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (["bench", "--streams", "demo"], "--streams"),
        (["bench", "--dataset", "demo", "--shard", "0/2"], "--shard"),
        (["predict", "rtsp://admin:secret@camera/1"], "a live source"),
        (["predict", "camera:0"], "a live source"),
        (["predict", "clip.mp4", "--live"], "a live source"),
    ],
)
def test_what_runs_on_the_board_itself_only(lpx, line, what):
    done = lpx("remote", "jetson", *line)
    assert done.code == 2
    assert f"{what} cannot be used with `lpx remote`" in done.err
    assert "secret" not in done.err


def test_help_of_a_command_is_that_of_its_namesake(lpx):
    done = lpx("remote", "jetson", "build", "--help")
    assert done.code == 0
    assert "--int8" in done.out


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a;b", "a b", "$(x)"])
def test_hosts(lpx, host):
    done = lpx("remote", "--", host, "pull")
    assert done.code == 2
    assert "HOST must be a host" in done.err


def test_bad_options(lpx):
    done = lpx("remote", "--patience", "-1", "jetson", "pull")
    assert "--patience must be >= 0" in done.err
    done = lpx("remote", "jetson", "setup", "--no-environment", "--download")
    assert done.code == 2
    assert "--no-environment cannot be combined with --wheels or --download" in done.err
