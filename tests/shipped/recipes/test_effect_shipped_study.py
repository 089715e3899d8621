"""recipe/effect/study.yaml: the study that ships."""

from __future__ import annotations

from recipe.effect.record import settings_by_arm
from recipe.effect.study import STUDY_FILE, load_study


def test_the_shipped_study_reads_and_every_arm_is_a_valid_configuration():
    study = load_study(STUDY_FILE)
    settings = settings_by_arm(study, [name for name, arm in study.arms.items() if arm.same_as is None])
    assert (study.primary.metric, study.primary.first, study.primary.last) == ("critic/score/mean", 151, 200)
    assert all(values["run.num_steps"] == 200 for values in settings.values())


def test_every_arm_of_the_shipped_study_has_its_budget_by_construction():
    """Two sources: samples_per_prompt multi rollouts and 2 x samples_per_view anchors."""
    study = load_study(STUDY_FILE)
    for name, values in settings_by_arm(study, [n for n, arm in study.arms.items() if arm.same_as is None]).items():
        anchors = 0 if values["anchor.kind"] == "none" else 2 * values["anchor.samples_per_view"]
        assert values["rollout.samples_per_prompt"] + anchors == study.rollouts(name), name
        assert values["tracking.rollout_prompts"] >= values["data.prompts_per_step"], name
        assert values["tracking.rollouts_every"] > 0, name
