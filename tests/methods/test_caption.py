"""The control `caption` ranks by the words of captions, and by nothing else."""

from pathlib import Path

import numpy as np
import pytest

from attrbench.contracts.feature import QueryFeatures, TrainFeatures
from attrbench.contracts.options import Options
from attrbench.contracts.task import Items
from attrbench.errors import Unavailable
from attrbench.features.prompts import Prompts
from attrbench_methods.controls.caption import Caption
from tests.methods.in_memory import SmallTask, context, no_model, scores_by_run, small_items

CAPTIONS = ("a flat emoji of rose", "a 3d emoji of rose", "a quaxik", "the flag of fiji", "A Quaxik!")


def scores_of(asked, captions=CAPTIONS):
    train = TrainFeatures(len(captions), {Prompts(): np.array(captions)})
    scorer = Caption(Options()).fit(train, context(workspace=Path()))
    return scorer.scores(QueryFeatures(np.arange(len(asked)), {Prompts(): np.array(asked)})), scorer


def test_a_rare_word_counts_more_than_common_ones_and_case_and_marks_do_not():
    (found,), _ = scores_of(["a flat picture of a quaxik"])
    assert found[2] == pytest.approx(found[4]) and found[2] == found.max()
    assert found[2] > found[0] > found[1] > found[3] > 0


def test_equal_captions_are_one_and_prompts_without_a_known_word_score_zero():
    found, _ = scores_of([CAPTIONS[3], "nothing known"])
    assert found[0, 3] == pytest.approx(1) and not found[1].any()


def test_captions_without_words_are_unavailable():
    with pytest.raises(Unavailable, match="no training item has a caption with words"):
        scores_of(["a rose"], ["", "--", ""])


def test_storage_counts_every_word_of_every_caption():
    _, scorer = scores_of(["a rose"], ["one two", "two three"])
    assert scorer.size().rows == 4 * (4 + 4) + 3 * 4 and scorer.size().shared == 3 * 4


def test_a_run_gives_the_prompts_of_the_task_and_asks_no_model(tmp_path):
    shape = (2, 3, 3)

    def captioned(count, prompts) -> Items:
        items = small_items(count, shape)
        return Items(items.images, items.groups, prompts, f"{items.fingerprint} {prompts}")

    task = SmallTask(no_model, captioned(5, CAPTIONS), captioned(2, ["rose", "fiji"]))
    (found,) = scores_by_run(task, tmp_path, "caption")
    np.testing.assert_allclose(found, scores_of(["rose", "fiji"])[0], rtol=1e-6)
