from __future__ import annotations

import json
from dataclasses import replace

import pytest

pytest.importorskip("lightning", reason="training needs lpx[train]")

from lpx.errors import InvalidArgumentError, LpxError
from lpx.models.checkpoint import load_checkpoint
from lpx.training.ablation.ablating import ablate
from lpx.training.ablation.grid import AblationGrid, CellResult, GridCell
from lpx.training.ablation.report import contrasts, draw, summarise, to_markdown
from lpx.training.localisation import localise
from tests.support.reporting import RecordingReporter
from tests.training.callbacks import quiet
from tests.training.small import SMALL, write_faces


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    identities = [f"person{i % 12}" for i in range(12)]
    return write_faces(tmp_path_factory.mktemp("data") / "faces", identities)


def test_grid_holds_every_setting_once_per_seed():
    grid = AblationGrid(
        ("resnet18", "xception"), ("s1", "s2"), ("direct", "whole"), (0.0, 0.1), seeds=3
    )
    cells = grid.cells()
    assert len(cells) == len(set(cells)) == 3 * 2 * (1 + 2) * 2
    assert {c.cut for c in cells if c.variant == "whole"} == {"whole"}
    assert [c.seed for c in cells] == sorted(c.seed for c in cells)
    assert [c.variant for c in cells[:6]] == ["whole", "whole", *["direct"] * 4]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"variants": ("half",)}, "variants must be one of whole, direct, indirect"),
        ({"backbones": "vgg16"}, "backbones must be one of xception"),
        ({"diversity_weights": (0.1, -1)}, "diversity_weights must be >= 0"),
        ({"seeds": 0}, "seeds must be >= 1"),
    ],
)
def test_grids_are_checked(settings, text):
    with pytest.raises(InvalidArgumentError) as caught:
        AblationGrid(**settings)
    assert str(caught.value).startswith(text)


def test_one_name_may_come_as_text():
    grid = AblationGrid(backbones="resnet18", cuts="layer1", variants="direct")
    assert grid == AblationGrid(("resnet18",), ("layer1",), ("direct",))


def test_cells_change_what_they_name_and_nothing_else():
    base = replace(SMALL, aggregate="lse", aggregate_parameter=3.0)
    whole = GridCell("whole", "resnet18", "whole", 0.0, 2).recipe(base)
    assert (whole.aggregate, whole.supervision, whole.diversity.weight) == (
        "mean_logit",
        "indirect",
        0.0,
    )
    direct = GridCell("direct", "resnet18", "layer1", 0.3, 2).recipe(base)
    assert (direct.aggregate, direct.supervision, direct.cut) == ("lse", "direct", "layer1")
    assert direct.diversity == replace(base.diversity, weight=0.3)
    assert (direct.seed, direct.steps, direct.input_size) == (2, base.steps, base.input_size)


def test_grid_is_trained_once_and_read_again(faces, tmp_path):
    base = replace(SMALL, steps=2, steps_per_epoch=2, input_size=32)
    grid = AblationGrid("efficientnet_lite0", "stage2", ("direct", "indirect"), (0.1,), seeds=1)
    reporter = RecordingReporter()
    arguments = {"grid": grid, "options": quiet(), "reporter": reporter}
    first = ablate(
        base, str(faces), str(tmp_path), command=lambda recipe: f"train {recipe.seed}", **arguments
    )
    results = first.results
    assert [r.cell for r in results] == list(grid.cells())
    assert all(r.receptive_field == 19 and 0 < r.gmac < 0.1 for r in results)
    assert all(set(r.auc) == {"sbi", "alpha", "poisson"} for r in results)
    assert all(0 <= r.localisation <= 1 for r in results)
    assert all(0 <= r.localisation_over_real <= 1 for r in results)
    assert all(0 < r.similarity <= 1 for r in results)
    assert json.loads((tmp_path / "ablation.json").read_text()) == first.to_dict()
    assert (tmp_path / "ablation.md").read_text() == first.markdown
    checkpoint = tmp_path / grid.cells()[0].name / "ckpt.pt"
    assert load_checkpoint(checkpoint).card.provenance["command"] == "train 0"
    assert ablate(base, faces, tmp_path, **arguments) == first
    assert len(reporter.said) == 2
    with pytest.raises(LpxError, match="other settings") as caught:
        ablate(replace(base, steps=3), faces, tmp_path, **arguments)
    assert "steps is 3, was 2" in caught.value.why


def result(variant, ld, seed, value):
    cell = GridCell(variant, "resnet18", "layer2", ld, seed)
    return CellResult(
        cell, 99, 0.5, {"sbi": value, "alpha": 0.5, "poisson": 0.6}, 0.7, 0.8, value / 2, 1.0
    )


def test_table_holds_means_and_intervals():
    results = [result("direct", 0.0, s, v) for s, v in enumerate((0.8, 0.9))]
    rows = summarise([*results, result("indirect", 0.1, 0, 0.75)])
    assert [r.seeds for r in rows] == [2, 1]
    # Student's t with one degree of freedom: 12.706 standard errors of 0.05.
    assert rows[0].measures["sbi"].mean == pytest.approx(0.85)
    assert rows[0].measures["sbi"].half_width == pytest.approx(12.706 * 0.05, rel=1e-3)
    table = to_markdown(rows, (), ("sbi",))
    assert "poisson (unseen)" in table
    assert "0.850 ± 0.635" in table
    assert "| LP, indirect | layer2 | 99 | 0.500 | 0.1 | 1 | 0.750 |" in table
    assert draw(rows).startswith(b"\x89PNG")


def test_contrasts_pair_trainings_that_differ_in_one_thing():
    # Seeds differ by more than local diversity does: only pairs show it.
    results = [result("direct", ld, s, 0.6 + 0.1 * s + ld / 10) for s in range(3) for ld in (0, 1)]
    results += [result("indirect", 0, s, 0.65 + 0.1 * s) for s in range(2)]
    made = {c.name: c for c in contrasts(results)}
    assert set(made) == {"LD 1 - LD off", "LP, indirect - LP, direct"}
    diversity, indirect = made["LD 1 - LD off"], made["LP, indirect - LP, direct"]
    assert (diversity.pairs, indirect.pairs) == (3, 2)
    for interval, mean in (
        (diversity.measures["sbi"], 0.1),
        (diversity.measures["similarity"], 0.05),
        (indirect.measures["sbi"], 0.05),
    ):
        assert interval.mean == pytest.approx(mean)
        assert interval.half_width == pytest.approx(0, abs=1e-12)
    table = to_markdown(summarise(results), contrasts(results), ("sbi",))
    assert "| LD 1 - LD off | 3 | +0.100 ± 0.000 | +0.000 ± 0.000 |" in table


def test_pixel_auc_of_the_mask_itself_is_one(faces):
    import torch

    from lpx.data.pseudo_fakes.training_pairs import open_training_data
    from lpx.models.detector import new_detector

    _, card = new_detector("efficientnet_lite0", "stage2", input_size=64, bottleneck=0)
    held_out = open_training_data(faces, ("sbi",), 0).held_out

    class Knows(torch.nn.Module):
        """Says where the middle of the crop is, which is where the faces of this test lie."""

        def __init__(self, sign):
            super().__init__()
            axis = torch.linspace(-1, 1, 64)
            self.map = torch.sigmoid(sign * (0.5 - (axis[:, None] ** 2 + axis[None] ** 2)))

        def forward(self, x):
            return x.mean(dim=(1, 2, 3)).sigmoid(), self.map.expand(len(x), 64, 64)

    found = localise(Knows(5.0), card, held_out, "alpha", 6)
    opposite = localise(Knows(-5.0), card, held_out, "alpha", 6)
    assert found.raw > 0.9
    assert opposite.raw == pytest.approx(1 - found.raw, abs=1e-3)
    # It says the same of every face: nothing is left of that beyond its mean over real ones.
    assert found.over_real == pytest.approx(0.5, abs=1e-3)


def test_what_a_map_shows_beyond_real_faces_is_free_of_each_units_constant(faces):
    import torch

    from lpx.data.pseudo_fakes.training_pairs import open_training_data
    from lpx.models.detector import new_detector

    _, card = new_detector("efficientnet_lite0", "stage2", input_size=64, bottleneck=0)
    held_out = open_training_data(faces, ("sbi",), 0).held_out
    torch.manual_seed(0)
    constants = 2 * torch.randn(8, 8)

    class Sees(torch.nn.Module):
        """Brightness of each patch, the patches' constants apart."""

        def __init__(self, constants):
            super().__init__()
            self.constants = constants

        def forward(self, x):
            patches = torch.nn.functional.avg_pool2d(x.mean(dim=1), 8)
            return patches.mean(dim=(1, 2)).sigmoid(), (patches + self.constants).sigmoid()

    plain = localise(Sees(torch.zeros(8, 8)), card, held_out, "alpha", 6)
    shifted = localise(Sees(constants), card, held_out, "alpha", 6)
    assert shifted.raw != pytest.approx(plain.raw, abs=0.02)
    assert shifted.over_real == pytest.approx(plain.over_real, abs=1e-3)
