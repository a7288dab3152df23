"""`attrbench.attribute` and `attribute_blocks`: one method, several, and any number of pictures."""

import numpy as np
import pytest
from PIL import Image

import attrbench
import attrbench.errors
from attrbench.errors import UsageError
from attrbench.features.images import Images

DMIN = "dmin:v=64,timesteps=1"


@pytest.fixture
def images(toy):
    return [Image.fromarray(image.squeeze()) for image in attrbench.open_task(toy).train.images[:5]]


class Counted(attrbench.Method):
    """Scores by the mean of the pixels, and counts how often it is fitted."""

    name = "counted"
    summary = "likeness of mean brightness"
    fitted = 0

    class Options(attrbench.Options):
        """None."""

    def features(self):
        from attrbench.contracts.feature import FeatureRequest

        return FeatureRequest.both(Images())

    def fit(self, train, context):
        from attrbench.contracts.method import ExhaustiveScorer, StateSize

        type(self).fitted += 1
        means = train[Images()].mean(axis=(1, 2, 3), dtype=np.float32)

        class Scorer(ExhaustiveScorer):
            def scores(self, query):
                return -np.abs(query[Images()].mean(axis=(1, 2, 3), dtype=np.float32)[:, None] - means)

            def size(self):
                return StateSize(rows=means.nbytes)

        return Scorer()


def test_one_method_gives_one_answer_and_a_list_gives_answers_by_label(toy, images):
    alone = attrbench.attribute("pixel", toy, images=images, k=4, lowest=2, progress=False)
    both = attrbench.attribute(["pixel", DMIN], toy, images=images, k=4, lowest=2, progress=False)
    assert both.methods == ["pixel", DMIN] and both["pixel"].method == both[0].method
    assert np.array_equal(both["pixel"].ranking.ids, alone.ranking.ids)
    assert np.array_equal(alone.lowest.ids, np.argsort(alone.scores, axis=1, kind="stable")[:, :2])
    assert [row.item for row in alone.rows(0, lowest=True)] == alone.lowest.ids[0].tolist()
    assert both._repr_png_().startswith(b"\x89PNG")
    assert repr(both) == f"<Attributions of 5 pictures on attrbench-check by pixel, {DMIN}>"
    with pytest.raises(UsageError, match="did you mean pixel"):
        both["pixl"]


def test_agreement_is_that_of_the_scores_and_tops(toy, images):
    from scipy.stats import spearmanr

    both = attrbench.attribute(["pixel", DMIN], toy, images=images, k=3, progress=False)
    (pair,) = both.agreement
    for query in range(len(images)):
        expected = spearmanr(both[0].scores[query], both[1].scores[query]).statistic
        assert pair.spearman[query] == pytest.approx(expected)
        common = {*both[0].ranking.ids[query]} & {*both[1].ranking.ids[query]}
        assert pair.overlap[query] == pytest.approx(len(common) / 3)
    assert attrbench.attribute(["pixel"], toy, images=images[:1], progress=False).agreement == []


def test_blocks_give_the_answers_of_one_call_and_fit_once(toy, images):
    whole = attrbench.attribute([Counted, DMIN], toy, images=images, k=4, progress=False)
    Counted.fitted = 0
    blocks = list(attrbench.attribute_blocks([Counted, DMIN], toy, images=images, k=4, block=2, progress=False))
    assert Counted.fitted == 1
    assert [len(block.queries) for block in blocks] == [2, 2, 1]
    for place in range(2):
        ids = np.concatenate([block[place].ranking.ids for block in blocks])
        assert np.array_equal(ids, whole[place].ranking.ids)


def test_a_method_that_keeps_products_with_the_queries_is_right_in_every_block(toy, images):
    method = "grad-dot:timesteps=2"
    whole = attrbench.attribute(method, toy, images=images, progress=False)
    blocks = list(attrbench.attribute_blocks(method, toy, images=images, block=2, progress=False))
    scores = np.concatenate([block[0].scores for block in blocks])
    assert np.allclose(scores, whole.scores, rtol=1e-5, atol=1e-7)


def test_an_error_of_one_among_several_methods_names_it(toy, images):
    with pytest.raises(attrbench.errors.AttrbenchError, match="broken-here: no scores today"):
        attrbench.attribute(["pixel", Broken], toy, images=images, progress=False)


class Broken(Counted):
    """Raises when it is fitted."""

    name = "broken-here"

    def fit(self, train, context):
        raise attrbench.errors.AttrbenchError("no scores today")
