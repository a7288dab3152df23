"""The kinds of features: data computed and stored for each item (gradient sketches, products, outputs, images)."""

from attrbench.contracts.feature import Feature, FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.features.gradient_feature import GradientFeature
from attrbench.features.gradient_gram import GradientGram
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.images import Images
from attrbench.features.losses_under_edit import LossesUnderEdit
from attrbench.features.outputs import Outputs
from attrbench.features.prompts import Prompts

__all__ = [
    "Feature",
    "FeatureRequest",
    "GradientFeature",
    "GradientGram",
    "GradientProducts",
    "GradientRows",
    "GradientSource",
    "Images",
    "LossesUnderEdit",
    "Outputs",
    "Prompts",
    "QueryFeatures",
    "Sketch",
    "TimestepGrid",
    "TrainFeatures",
]
