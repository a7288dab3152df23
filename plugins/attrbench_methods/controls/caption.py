"""Control method `caption`: words that a query's prompt shares with captions, with no look at pictures or model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options
from attrbench.errors import Unavailable
from attrbench.features.prompts import Prompts

WORD = r"(?u)\w+"
"""What counts as a word: scikit-learn's default leaves out those of one letter."""


class Caption(Method[Options]):
    """Control method: the cosine of the words of the query's prompt and of a training caption, rare words first.

    tau = cosine of tf-idf vectors, with scikit-learn's smoothed logarithmic weights over the training captions. It
    reads what a network that is given prompts reads as well. Where it finds the truth, a method that asks the network
    with its prompts may have found it by the text alone; `prompt=empty` asks without.
    """

    name = "caption"
    summary = "words that captions share; neither pictures nor model are asked"
    citation = "Salton and Buckley 1988, Term-weighting approaches in automatic text retrieval"
    Options = Options

    def features(self) -> FeatureRequest:
        """Request the captions of training items and the prompts of queries, and no gradients."""
        return FeatureRequest.both(Prompts())

    def fit(self, train: TrainFeatures, context: Context) -> CaptionScorer:
        """Return a scorer over the words of all training captions.

        Raises:
            Unavailable: where no caption has a word.
        """
        captions = train[Prompts()]
        words = TfidfVectorizer(token_pattern=WORD, dtype=np.float32)
        try:
            return CaptionScorer(words, words.fit_transform(captions))
        except ValueError:
            raise Unavailable("method caption: no training item has a caption with words") from None


class CaptionScorer(ExhaustiveScorer):
    """Scorer by the cosine of words.

    Args:
        words: what turns texts into unit vectors.
        train: [n, number of words] sparse unit vectors of the training captions.
    """

    def __init__(self, words: Any, train: csr_matrix) -> None:
        self._words, self._train = words, train

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] cosines of prompts and captions; 0 where no word is shared."""
        cosines: NDArray[np.float32] = (self._words.transform(query[Prompts()]) @ self._train.T).toarray()
        return cosines

    def size(self) -> StateSize:
        """Return the bytes of the captions' words: an index and a weight each, and the weight of every word."""
        rows = self._train.data.nbytes + self._train.indices.nbytes + self._train.indptr.nbytes
        return StateSize(rows=rows, shared=self._words.idf_.nbytes)
