"""Commands on a board, through a real sshd."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from lpx import Board, LpxError, Workspace
from lpx.remote.connection import Connection
from lpx.schema import unsealed


def run(ready, workspace, heard, *words, **options):
    return ready.board().run(words, workspace, output=heard, reporter=heard, **options)


def work_folder(server):
    (folder,) = (server.home / ".lpx-remote/work").iterdir()
    return folder


def test_build_runs_there_and_its_engine_comes_back(ready, workspace, heard):
    result = run(ready, workspace, heard, "build", "--fp32", "--target", "onnxruntime")
    assert result.exit_code == 0
    assert result.new == ("engines/onnxruntime-fp32",)
    assert b"onnxruntime-fp32/engine.onnx" in heard.output["stdout"]
    assert b"building onnxruntime-fp32" in heard.output["stderr"]
    folder = workspace.root / "remote/board"
    assert result.folder == folder
    there = work_folder(ready) / "lpx-out/engines/onnxruntime-fp32/engine.onnx"
    assert (folder / "engines/onnxruntime-fp32/engine.onnx").read_bytes() == there.read_bytes()
    record = unsealed(json.loads((folder / "remote.json").read_text()))
    assert record["board"]["hostname"]
    assert record["workstation"]["hostname"]
    assert record["last_command"]["words"] == ["build", "--fp32", "--target", "onnxruntime"]
    assert record["last_command"]["exit_code"] == 0
    assert set(record["files"]) >= {"engines/onnxruntime-fp32/engine.onnx"}
    # The engines of this machine are as they were.
    assert workspace.engine_names() == ("onnxruntime-fp32", "onnxruntime-int8")


def test_only_what_changed_is_sent_again(ready, workspace, heard):
    run(ready, workspace, heard, "explain-graph")
    sent = [note for note in heard.notes if note.startswith("sending")]
    heard.notes.clear()
    run(ready, workspace, heard, "explain-graph")
    assert len(sent) == 2  # lpx itself, and the workspace
    assert not [note for note in heard.notes if note.startswith("sending")]
    # The list of members has changed, too.
    workspace.scales.unlink()
    heard.notes.clear()
    run(ready, workspace, heard, "explain-graph")
    (note,) = [note for note in heard.notes if note.startswith("sending")]
    assert note.startswith("sending 1 of ")
    assert not (work_folder(ready) / "lpx-out/scales.json").exists()


def test_what_was_damaged_there_is_sent_again(ready, workspace, heard):
    run(ready, workspace, heard, "explain-graph")
    model = work_folder(ready) / "lpx-out/model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    heard.notes.clear()
    assert run(ready, workspace, heard, "explain-graph").exit_code == 0
    assert [note for note in heard.notes if note.startswith("sending 1 of")]
    assert model.read_bytes() == whole


@pytest.mark.parametrize("code", [0, 1, 2, 4])
def test_exit_codes_pass_through(ready, workspace, heard, code):
    ready.replace_lpx(f"sys.exit({code})")
    assert run(ready, workspace, heard, "doctor").exit_code == code


def test_a_code_of_255_there_is_not_a_lost_connection(ready, workspace, heard):
    ready.replace_lpx("sys.exit(255)")
    assert run(ready, workspace, heard, "doctor").exit_code == 255
    assert not heard.warnings


def test_a_command_that_is_killed_there(ready, workspace, heard):
    ready.replace_lpx("import os; os.kill(os.getpid(), 9)")
    assert run(ready, workspace, heard, "doctor").exit_code == 137
    assert "killed" in heard.warnings[0]


def test_bench_takes_its_faces_from_here(ready, workspace, heard, crops):
    result = run(
        ready,
        workspace,
        heard,
        *("bench", "--dataset", "lpx-out/faces", "--latency-seconds", "0"),
        faces=crops,
    )
    # Engines of this machine stay here, and none was built there.
    assert result.exit_code == 2
    assert b"lpx build" in heard.output["stderr"]
    assert len(list((work_folder(ready) / "lpx-out/faces").rglob("*.png"))) == 16


def test_predict_sends_its_pictures(ready, workspace, heard, crops):
    run(ready, workspace, heard, "build", "--fp32", "--target", "onnxruntime")
    words = ("predict", "--crops", "--", "@crops@")
    result = run(ready, workspace, heard, *words, inputs={"@crops@": crops})
    assert result.exit_code == 0
    assert result.new == ("predictions",)
    here = (result.folder / "predictions/scores.csv").read_text().splitlines()
    assert len(here) >= 17
    # Other pictures replace these there.
    shutil.rmtree(crops / "real")
    run(ready, workspace, heard, *words, inputs={"@crops@": crops})
    assert len(list((work_folder(ready) / "inputs").rglob("*.png"))) == 8


def test_a_file_may_take_the_place_of_a_folder(ready, workspace, heard, crops, tmp_path):
    ready.replace_lpx("print(sorted(os.listdir('inputs')), os.path.isdir('inputs/crops'))")
    file = tmp_path / "other" / crops.name
    file.parent.mkdir()
    file.write_bytes(b"a picture")
    for path, is_folder in ((crops, True), (file, False), (crops, True)):
        heard.output["stdout"] = b""
        run(ready, workspace, heard, "predict", "@x@", inputs={"@x@": path})
        assert heard.output["stdout"].decode() == f"{[crops.name]} {is_folder}\n"


def test_what_arrived_before_a_cut_is_removed_when_it_is_not_sent_again(ready):
    """Ranges that are not here any more must not be those of the next build there."""
    content = b"ranges"
    name = "lpx-out/scales.json"
    first = {name: [len(content), hashlib.sha256(content).hexdigest()], "lpx-out/b": [1, "0" * 64]}
    request = {"work": "w", "key": "k", "words": ["--version"], "variables": {}}
    request["holder"] = {"who": "me", "command": "c"}
    path = ready.home / ".lpx-remote/work/w" / name
    with Connection("board", ".lpx-remote", ready.config) as connection:
        cut = {**request, "job": "a", "files": first, "missing": list(first)}
        with pytest.raises(LpxError) as caught:
            connection.call("start", cut, [content])
        assert caught.value.code == "damaged"
        assert path.read_bytes() == content
        connection.call("start", {**request, "job": "b", "files": {}, "missing": []})
    assert not path.exists()


def test_words_with_a_meaning_for_shells_arrive_as_they_are(ready, workspace, heard, crops):
    name = "a b;$(touch x)`touch y`'&|<>"
    words = ("predict", "--crops", "--engine", name, "--")
    file = next(crops.rglob("*.png"))
    strange = crops / "strange 'name' $(touch z);.png"
    strange.write_bytes(file.read_bytes())
    run(ready, workspace, heard, "build", "--fp32", "--target", "onnxruntime")
    result = run(ready, workspace, heard, *words, "lpx-out/probe")
    assert result.exit_code == 2
    assert b"$(touch x)" in heard.output["stderr"] + heard.output["stdout"]
    words = ("predict", "--crops", "--no-overlay", "--", "@it@")
    assert run(ready, workspace, heard, *words, inputs={"@it@": strange}).exit_code == 0
    assert b"$(touch z)" in heard.output["stdout"]
    assert not list(ready.folder.rglob("[xyz]"))


def test_pull_fetches_what_is_not_here(ready, workspace, heard):
    run(ready, workspace, heard, "build", "--fp32", "--target", "onnxruntime")
    shutil.rmtree(workspace.root / "remote")
    assert ready.board().pull(workspace).new == ("engines/onnxruntime-fp32",)
    assert ready.board().pull(workspace).new == ()


def test_results_here_stay_when_the_board_forgets_them(ready, workspace, heard):
    run(ready, workspace, heard, "build", "--fp32", "--target", "onnxruntime")
    shutil.rmtree(ready.home / ".lpx-remote/work")
    assert ready.board().pull(workspace).new == ()
    assert (workspace.root / "remote/board/engines/onnxruntime-fp32/engine.onnx").is_file()


def test_an_engine_of_another_model_stays_there(ready, workspace, heard):
    run(ready, workspace, heard, "build", "--fp32", "--target", "onnxruntime")
    shutil.rmtree(workspace.root / "remote")
    workspace.model.write_bytes(workspace.model.read_bytes() + b"\0")
    assert ready.board().pull(workspace, reporter=heard).new == ()
    assert "another model" in heard.warnings[0]


def test_a_board_without_lpx(sshd, workspace, heard):
    with pytest.raises(LpxError) as caught:
        run(sshd, workspace, heard, "doctor")
    assert caught.value.code == "not-found"
    assert "lpx remote board setup" in caught.value.fix


def test_a_board_with_another_lpx(ready, workspace, heard):
    path = ready.home / ".lpx-remote/setup.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lpx": "0.0.9"}))
    with pytest.raises(LpxError) as caught:
        run(ready, workspace, heard, "doctor")
    assert caught.value.code == "unsupported"
    assert "0.0.9" in caught.value.what


def test_without_a_workspace(ready, heard):
    result = ready.board().run(["doctor", "--json"], None, output=heard, reporter=heard)
    assert result.exit_code == 0
    assert result.folder is None
    assert json.loads(heard.output["stdout"])


def test_the_same_command_is_not_started_twice(ready, workspace):
    """The reply to a request may be lost after the command was started."""
    request = {
        **{"work": "w", "key": "k", "job": "j", "words": ["--version"], "variables": {}},
        **{"files": {}, "missing": [], "holder": {"who": "me", "command": "c"}},
    }
    with Connection("board", ".lpx-remote", ready.config) as connection:
        assert connection.call("start", request) == {"started": True}
        assert connection.call("start", request) == {"started": False}


def test_results_that_are_refused_do_not_block_the_next_command(ready, workspace, heard):
    run(ready, workspace, heard, "build", "--fp32", "--target", "onnxruntime")
    engine = work_folder(ready) / "lpx-out/engines/onnxruntime-fp32/engine.onnx"
    engine.write_bytes(engine.read_bytes() + b"\0")
    for _ in range(2):
        with pytest.raises(LpxError) as caught:
            run(ready, workspace, heard, "explain-graph")
        assert caught.value.code == "damaged"
    assert len(list((ready.home / ".lpx-remote/jobs").iterdir())) == 3


def test_a_link_among_results_stays_there(ready, workspace, heard):
    run(ready, workspace, heard, "build", "--fp32", "--target", "onnxruntime")
    (work_folder(ready) / "lpx-out/report.md").symlink_to("/etc/passwd")
    assert ready.board().pull(workspace).new == ()


def test_others_there_cannot_look_inside(ready):
    assert (ready.home / ".lpx-remote").stat().st_mode & 0o077 == 0


def test_nothing_to_attach_to(ready, workspace):
    with pytest.raises(LpxError) as caught:
        ready.board().attach(workspace)
    assert caught.value.code == "not-found"


def test_attach_shows_the_last_command_again(ready, workspace, heard):
    run(ready, workspace, heard, "explain-graph")
    first = dict(heard.output)
    heard.output.update(stdout=b"", stderr=b"")
    result = ready.board().attach(workspace, output=heard, reporter=heard)
    assert result.exit_code == 0
    assert heard.output["stdout"] == first["stdout"]
    assert "has ended" in heard.notes[-1]


def test_two_workspaces_do_not_mix(ready, workspace, heard, tmp_path):
    shutil.copytree(workspace.root, tmp_path / "other" / "lpx-out")
    run(ready, workspace, heard, "build", "--fp32", "--target", "onnxruntime")
    other = Workspace(tmp_path / "other" / "lpx-out")
    assert run(ready, other, heard, "explain-graph").new == ()
    assert len(list((ready.home / ".lpx-remote/work").iterdir())) == 2


def test_what_a_login_shell_prints_is_skipped(ready, workspace, heard):
    (ready.home / ".bashrc").write_text("echo welcome; printf 'no line break'\n")
    assert run(ready, workspace, heard, "explain-graph").exit_code == 0


def test_repr():
    assert repr(Board("jetson")) == "Board('jetson')"
