"""recipe/effect: the numbers of a run, the comparisons of arms, and the report."""

from __future__ import annotations

import csv
import re
from itertools import product

import pytest

from mars.errors import ConfigError, DataError
from recipe.effect.analysis import comparisons, means, planned_primary
from recipe.effect.decided import keep_study
from recipe.effect.plan import planned_runs
from recipe.effect.record import RunRecord, write_record
from recipe.effect.report import write_study_report
from recipe.effect.report_tables import shown
from recipe.effect.results import row_of
from recipe.effect.study import load_study
from recipe.effect.tables import read_results, write_results
from tests.fakes.effect_train import evaluation, step_rollouts, write_run
from tests.shipped.recipes.effect_study import GRPO, MARS, PRIMARY, small_study, study_file

# Prompts 0, 1 and 2 are of day, night and both.
LAST = evaluation(4, multi=[1, 0, 1], visible=[1, 0, 0], infrared=[0, 1, 0])


def test_the_numbers_of_a_run_by_hand(tmp_path):
    study = small_study(tmp_path)
    rollouts = {1: step_rollouts(1, 8, 1, right=0), 4: step_rollouts(4, 8, 1, right=2)}
    write_run(tmp_path / "run", [0.1, 0.2, 0.3, 0.5], rollouts, LAST)
    row = row_of(study, "mars", tmp_path / "run")
    assert row["primary"] == pytest.approx(0.4)  # steps 3 and 4
    assert row["primary_series"] == [0.1, 0.2, 0.3, 0.5]
    assert row["primary/all"] == row["train/critic/score/mean/all"] == pytest.approx(0.275)
    assert row["train/mars/frac_zero_signal/window"] == pytest.approx(0.2)
    assert "train/mars/gain/mean/all" not in row
    assert (row["prompts_sampled"], row["rollout_tokens"]) == (12, 40)
    assert (row["start/night/all_wrong"], row["start/night/reward"]) == (1.0, 0.0)
    assert (row["train/night/all_wrong"], row["train/night/reward"]) == (0.0, 0.25)  # of the multi rollouts alone
    expected = {"multi": 2 / 3, "mono/visible": 1 / 3, "mono/infrared": 1 / 3, "union": 2 / 3, "conflict_rate": 1 / 3}
    assert {key: row[f"eval/{key}"] for key in expected} == pytest.approx(expected)
    assert row["eval/information_gain"] == pytest.approx(1 / 3)
    assert (row["eval/day/multi"], row["eval/night/multi"], row["eval/night/union"], row["eval/n"]) == (1, 0, 1, 3)


def test_an_arm_with_a_metric_of_its_own(tmp_path):
    study = small_study(tmp_path, arms={"grpo": GRPO, "other": {**MARS, "metric": "mars/frac_zero_signal"}})
    write_run(tmp_path / "run", [0.1, 0.2, 0.3, 0.5], {}, LAST)
    assert row_of(study, "other", tmp_path / "run")["primary"] == pytest.approx(0.2)


@pytest.mark.parametrize(("scores", "message"), [([0.1, 0.2, 0.3], "want the steps 1 to 4; got 3"), ([], "got 0")])
def test_a_run_without_all_steps_has_no_numbers(tmp_path, scores, message):
    write_run(tmp_path / "run", scores, {}, LAST)
    with pytest.raises(DataError, match=message):
        row_of(small_study(tmp_path), "mars", tmp_path / "run")


def test_a_step_without_the_primary_metric_is_named(tmp_path):
    write_run(tmp_path / "run", [0.1, 0.2, None, 0.5], {}, LAST)  # null: it was not finite
    with pytest.raises(DataError, match=r"no critic/score/mean in step 3"):
        row_of(small_study(tmp_path), "mars", tmp_path / "run")


def rows(study, values):
    """values: arm -> primary value of the seeds 0, 1, ..., at each dial."""
    return [
        {"dial": dial, "arm": arm, "seed": seed, "cold_start": 1 + seed % 3, "primary": value, "eval/multi": value / 2}
        for dial, (arm, of_arm) in product(study.dials, values.items())
        for seed, value in enumerate(of_arm)
    ]


def test_comparisons_are_paired_and_the_primary_ones_are_adjusted_together(tmp_path):
    study = small_study(tmp_path, dials=[0.5], seeds={0.5: "0-2"}, arms={"grpo": GRPO, "a": MARS, "b": MARS})
    found = comparisons(study, rows(study, {"grpo": [0.1, 0.5, 0.9], "a": [0.2, 0.7, 1.2], "b": [0.1, 0.6, 0.9]}))
    a, b = (c for c in found if c.metric == "primary")
    assert (a.arm, a.other, a.primary, b.arm) == ("a", "grpo", True, "b")
    assert a.difference.pairs.mean == pytest.approx(0.2)  # 0.1, 0.2, 0.3: t = 2 sqrt(3)
    assert a.difference.pairs.p == pytest.approx(0.0741799, abs=1e-6)
    assert b.difference.pairs.p == pytest.approx(0.4226497, abs=1e-6)  # 0, 0.1, 0: t = 1
    assert a.p_holm == pytest.approx(2 * 0.0741799, abs=1e-6)
    assert b.p_holm == pytest.approx(0.4226497, abs=1e-6)
    secondary = [c for c in found if c.metric == "eval/multi"]
    assert [(c.arm, c.primary, c.p_holm) for c in secondary] == [("a", False, None), ("b", False, None)]
    assert means(study, rows(study, {"a": [0.2, 0.4]}), "primary")[0.5, "a"].mean == pytest.approx(0.3)


def test_only_the_named_arms_and_dials_are_primary(tmp_path):
    arms = {"grpo": GRPO, "a": MARS, "b": MARS}
    primary = {**PRIMARY, "arms": ["b"], "dials": [0.5]}
    study = small_study(tmp_path, arms=arms, primary=primary)
    assert planned_primary(study) == [(0.5, "b")]
    found = comparisons(study, rows(study, {"grpo": [0.1, 0.5, 0.9], "a": [0.2, 0.7, 1.2], "b": [0.2, 0.7, 1.2]}))
    by_pair = {(c.dial, c.arm): c for c in found if c.metric == "primary"}
    assert [pair for pair, c in by_pair.items() if c.primary] == [(0.5, "b")]
    assert by_pair[0.5, "b"].p_holm == pytest.approx(0.0741799, abs=1e-6)  # of one comparison
    assert by_pair[1.0, "b"].p_holm is None
    assert (shown(by_pair[0.5, "a"]), shown(by_pair[0.5, "b"])) == ("secondary", "no")


def test_both_p_values_are_adjusted_for_what_is_planned_and_not_for_what_is_there(tmp_path):
    """Two arms beside the baseline at two dials are four comparisons, of which one has runs: p = 0.0741799 over three
    seeds, and over three cold starts of one seed each."""
    arms = {"grpo": GRPO, "a": MARS, "b": MARS, "same": {"title": "x", "same_as": "a", "note": "y"}}
    arms["replay"] = {**MARS, "not_comparable": "it replays prompts"}
    study = small_study(tmp_path, arms=arms)
    assert planned_primary(study) == [(0.5, "a"), (0.5, "b"), (1.0, "a"), (1.0, "b")]
    given = [row for row in rows(study, {"grpo": [0.1, 0.5, 0.9], "a": [0.2, 0.7, 1.2]}) if row["dial"] == 0.5]
    (only,) = (c for c in comparisons(study, given) if c.primary)
    assert (only.p_holm, only.starts_p_holm) == pytest.approx((4 * 0.0741799, 4 * 0.0741799), abs=1e-6)


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        # The cold starts 1, 2 and 3 of the seeds 0 to 8 in turn.
        ([0.10, 0.11, 0.12] * 3, "yes"),
        ([0.01, 0.05, 0.12] * 3, "for these cold starts"),
        ([-0.1, 0.0, 0.12] * 3, "no"),
        ([0.1], "–"),
    ],
)
def test_a_difference_is_shown_for_other_cold_starts_only_if_their_means_show_it(tmp_path, differences, says):
    study = small_study(tmp_path, dials=[0.5], seeds={0.5: "0-8"})
    noise = [0.001, -0.001, 0.002, 0.0, 0.003, -0.002, 0.001, 0.0, -0.003]
    values = [d + n for d, n in zip(differences, noise, strict=False)]
    given = rows(study, {"grpo": [0.0] * len(values), "mars": values})
    (only,) = (c for c in comparisons(study, given) if c.primary)
    assert shown(only) == says


def test_controls_are_not_primary_and_an_arm_that_chooses_its_prompts_is_compared_by_the_evaluation(tmp_path):
    arms = {"grpo": GRPO, "a": {**MARS, "controls": ["b"]}, "b": {**MARS, "not_comparable": "it replays prompts"}}
    study = small_study(tmp_path, dials=[0.5], seeds={0.5: "0-2"}, arms=arms)
    found = comparisons(study, rows(study, {name: [0.1, 0.2, 0.4] for name in arms}))
    assert [(c.arm, c.other, c.primary) for c in found if c.metric == "primary"] == [("a", "grpo", True)]
    evaluated = [(c.arm, c.other, c.primary) for c in found if c.metric == "eval/multi"]
    assert evaluated == [("a", "grpo", False), ("a", "b", False), ("b", "grpo", False)]


def test_an_arm_with_more_rollouts_of_some_prompts_is_compared_by_its_metric_and_the_evaluation(tmp_path):
    arms = {"grpo": GRPO, "a": {**MARS, "uneven": True, "metric": "mars/allocation/first_score"}, "b": MARS}
    study = small_study(tmp_path, dials=[0.5], seeds={0.5: "0-2"}, arms=arms)
    given = [row | {"train/night/reward": 0.5} for row in rows(study, {name: [0.1, 0.2, 0.4] for name in arms})]
    found = comparisons(study, given)
    assert [c.metric for c in found if c.arm == "a"] == ["primary", "eval/multi"]
    assert [c.metric for c in found if c.arm == "b"] == ["primary", "eval/multi", "train/night/reward"]


def test_seeds_that_only_one_arm_has_are_left_out(tmp_path):
    study = small_study(tmp_path)
    (first, *_) = comparisons(study, rows(study, {"grpo": [0.1, 0.2, 0.3], "mars": [0.2, 0.3]}))
    assert first.difference.pairs.n == 2


def test_results_are_read_back_and_give_the_primary_number_again(tmp_path):
    row = {"dial": 0.95, "arm": "mars", "seed": 3, "cold_start": 1, "seconds": 12.5, "rollouts_per_prompt": 10.0}
    row |= {"primary": 0.35, "eval/multi": 1 / 3, "primary_series": [0.1, 0.2, 0.3, 0.4], "eval/n": 1000}
    write_results(tmp_path / "results.csv", [row, {"dial": 1.0, "arm": "grpo", "seed": 0, "cold_start": 2}])
    first, second = read_results(tmp_path / "results.csv")
    assert first == {**row, "eval/multi": 0.333333}
    assert sum(first["primary_series"][2:]) / 2 == pytest.approx(first["primary"])
    assert second == {"dial": 1.0, "arm": "grpo", "seed": 0, "cold_start": 2}


@pytest.fixture
def folder(tmp_path):
    """A study with two missing runs and a refused one; the arm "same" has no runs."""
    same = {"title": "the same again", "same_as": "mars", "note": "Because."}
    arms = {"grpo": GRPO, "mars": {**MARS, "controls": ["third"]}, "third": GRPO, "same": same}
    file = study_file(tmp_path, arms=arms)
    study, out = load_study(file), tmp_path / "out"
    keep_study(file, study, out)
    for run in planned_runs(study, list(study.arms), study.dials):
        if run.seed == 5 and run.arm != "grpo":
            continue
        write_run(out / run.name, [0.1 * run.seed, 0.2, 0.3, 0.4 + 0.1 * (run.arm == "mars")], {}, LAST)
        record = RunRecord("finished", run.arm, run.dial, run.seed, run.start.number, {}, [], 60.0, 10.0)
        if (run.arm, run.seed, run.dial) == ("third", 0, 1.0):
            record = RunRecord("refused", run.arm, run.dial, run.seed, 1, {}, [], 60.0, 9.0, "too <few> rollouts")
        else:
            record = RunRecord(**{**vars(record), "row": row_of(study, run.arm, out / run.name)})
        write_record(out / run.name, record)
    return out


def test_the_report_has_every_arm_and_says_what_is_missing(folder):
    path = write_study_report(folder)
    page = path.read_text()
    for text in ("GRPO", "MARS", "the same again", "as mars", "Dial 0.5", "Dial 1", "Because.", "third"):
        assert text in page
    assert "2 runs are not finished" in page
    assert "runs/0.5/mars/5" in page
    assert "Refused, and in no number below: runs/1/third/0: too &lt;few&gt; rollouts." in page
    assert "Mean of critic/score/mean over the steps 3 to 4, against grpo. Primary comparisons:" in page
    assert "Primary comparisons: mars, third at dial 0.5, 1." in page
    assert not re.search(r'(src|href)="(?!data:)', page), "nothing is loaded"
    assert (folder / "report.png").read_bytes()[:4] == b"\x89PNG"
    differences = list(csv.DictReader((folder / "differences.csv").open()))
    names = ("metric", "dial", "arm", "minus")
    (of_mars,) = (d for d in differences if [d[name] for name in names] == ["primary", "0.5", "mars", "grpo"])
    assert "allows for all 4 primary" in page
    (third,) = (d for d in differences if [d[name] for name in names] == ["primary", "0.5", "third", "grpo"])
    assert [third[name] for name in ("p", "p_holm", "starts_p", "starts_p_holm")] == ["1"] * 4
    assert (of_mars["kind"], of_mars["n"], of_mars["starts_n"], float(of_mars["mean"])) == ("primary", "5", "3", 0.05)
    results = read_results(folder / "results.csv")
    assert len(results) == 6 + 5 + 5 + 3 + 3 + 2


def test_a_report_is_the_same_from_the_raw_runs(folder):
    write_study_report(folder)
    before = (folder / "results.csv").read_text()
    for path in folder.glob("runs/*/*/*/study_run.json"):
        path.write_text(path.read_text().replace('"primary": 0.', '"primary": 7.'))
    write_study_report(folder)
    assert (folder / "results.csv").read_text() != before
    write_study_report(folder, again=True)
    assert (folder / "results.csv").read_text() == before


def test_what_was_added_later_is_said(folder):
    assert "Added when" not in write_study_report(folder).read_text()
    (folder / "study.yaml").write_text((folder / "study.yaml").read_text().replace("0-5", "0-6"))
    assert "no p value allows for: seeds 6 of dial 0.5." in write_study_report(folder).read_text()


def test_a_report_of_a_study_that_was_edited_in_its_folder_is_refused(folder):
    (folder / "study.yaml").write_text((folder / "study.yaml").read_text().replace("first: 3", "first: 4"))
    with pytest.raises(ConfigError, match=r"^primary\.first: decided before the first run; it was 3; got 4"):
        write_study_report(folder)


def test_seeds_for_tuning_are_marked(tmp_path):
    file = study_file(tmp_path, dials=[0.5], seeds={0.5: "5000"})
    study, out = load_study(file), tmp_path / "out"
    keep_study(file, study, out)
    (run,) = planned_runs(study, ["mars"], [0.5])
    write_run(out / run.name, [0.1, 0.2, 0.3, 0.4], {}, LAST)
    row = row_of(study, "mars", out / run.name)
    write_record(out / run.name, RunRecord("finished", "mars", 0.5, 5000, 1, {}, [], 60.0, 10.0, None, row))
    assert "1 seeds from 5000 on are for choosing settings; do not report these." in write_study_report(out).read_text()


def test_no_report_without_a_finished_run(tmp_path):
    (tmp_path / "out").mkdir()
    file = study_file(tmp_path)
    keep_study(file, load_study(file), tmp_path / "out")
    with pytest.raises(DataError, match="no run is finished yet"):
        write_study_report(tmp_path / "out")
