"""Which share of the work a shard has, and how it is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.errors import InvalidArgumentError, LpxError
from lpx.shards.shard import MAX_COUNT, Shard, parse_shard

ARRAY = {
    "SLURM_ARRAY_TASK_ID": "12",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_MAX": "16",
    "SLURM_ARRAY_TASK_COUNT": "7",
    "SLURM_ARRAY_TASK_STEP": "1",
}


@given(total=st.integers(0, 500), unit=st.integers(1, 20), count=st.integers(1, 40), data=st.data())
def test_ranges_are_disjoint_complete_balanced_and_aligned(total, unit, count, data):
    ranges = [Shard(index, count).rows(total, unit) for index in range(count)]
    rows = [row for part in ranges for row in part]
    assert rows == list(range(total))
    assert all(not part or part.start % unit == 0 for part in ranges)
    units = [-(-len(part) // unit) for part in ranges]
    assert max(units) - min(units) <= 1


@given(items=st.lists(st.integers()), count=st.integers(1, 20))
def test_every_item_is_in_one_shard(items, count):
    taken = [None] * len(items)
    for index in range(count):
        taken[index::count] = Shard(index, count).every(items)
    assert taken == items


def test_a_shard_has_a_name():
    shard = parse_shard("2/7")
    assert shard == Shard(2, 7)
    assert str(shard) == "2/7"
    assert shard.folder_name == "2-of-7"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "7/7",
        "8/7",
        "0/0",
        "-1/7",
        "1/-7",
        "1/7 ",
        "1/7/2",
        "1.0/7",
        "a/b",
        "AUTO",
        "٣/٧",
        f"0/{MAX_COUNT + 1}",
        "0/99999999999999999999",
        None,
        3,
        ("2", "7"),
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(InvalidArgumentError) as caught:
        parse_shard(text)
    assert caught.value.code == "invalid-argument"
    assert "I/N" in str(caught.value)


@pytest.mark.parametrize("numbers", [(True, 2), (0.0, 2), (-1, 2), (2, 2), (0, 0), ("0", "2")])
def test_other_numbers_are_refused(numbers):
    with pytest.raises(InvalidArgumentError):
        Shard(*numbers)


def slurm(**changed):
    environment = dict(ARRAY)
    for name, value in changed.items():
        environment[f"SLURM_ARRAY_TASK_{name}"] = value
    return parse_shard("auto", {name: v for name, v in environment.items() if v is not None})


def test_auto_is_the_task_of_an_array():
    assert slurm() == Shard(2, 7)
    assert slurm(ID="10") == Shard(0, 7)
    assert slurm(ID="16") == Shard(6, 7)
    assert slurm(STEP=None, MAX=None) == Shard(2, 7)


def test_auto_with_steps():
    assert slurm(ID="30", MIN="10", MAX="50", COUNT="3", STEP="20") == Shard(1, 3)


@pytest.mark.parametrize(
    "changed",
    [
        # --array=1,5,6: not evenly numbered, so that 5 would be no number of a shard.
        {"ID": "5", "MIN": "1", "MAX": "6", "COUNT": "3", "STEP": "1"},
        {"ID": "11", "MIN": "10", "MAX": "50", "COUNT": "3", "STEP": "20"},
        {"ID": "9"},
        {"ID": "17"},
        {"STEP": "0"},
    ],
)
def test_auto_refuses_arrays_that_are_not_evenly_numbered(changed):
    with pytest.raises(LpxError, match="cannot number the tasks") as caught:
        slurm(**changed)
    assert caught.value.code == "unsupported"
    assert "`shard`" in caught.value.fix


@pytest.mark.parametrize("name", ["ID", "MIN", "COUNT"])
@pytest.mark.parametrize("value", [None, "", "two", "-1", "4294967294x"])
def test_auto_names_a_variable_that_is_missing_or_odd(name, value):
    with pytest.raises(LpxError, match=f"SLURM_ARRAY_TASK_{name} is") as caught:
        slurm(**{name: value})
    assert caught.value.code == "not-found"
    assert "--array" in caught.value.fix


def test_auto_reads_the_environment(monkeypatch):
    for name, value in ARRAY.items():
        monkeypatch.setenv(name, value)
    assert parse_shard("auto") == Shard(2, 7)
