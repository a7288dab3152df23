"""Options that would have no effect beside the others are refused: a row would look as if they did not matter."""

from __future__ import annotations

import pytest

from attrbench.contracts.options import Options, build_options, parse_spec
from attrbench.errors import UsageError
from attrbench.plugins.registry import registry

SKETCHED = ("dmin", "grad-cos", "diffusion-retrac", "trak", "d-trak", "journey-trak", "relative-if", "renorm-if", "das")
BLOCKS = ("datainf", "lissa", "lissa-released")
REFUSED = {
    **{f"{name}:v=none,seed=7": "seed=7: has an effect with v only, not with v=none" for name in SKETCHED + BLOCKS},
    **{f"{name}:v=none,sketch=gaussian": "sketch=gaussian: has an effect with v only" for name in SKETCHED + BLOCKS},
    "dmin:M=32": "M=32: has an effect with search=hnsw only, not with search=exact",
    "dmin:M=16": "M=16: has an effect with search=hnsw only",
    "dmin:search=faiss,ef=100": "ef=100: has an effect with search=hnsw only, not with search=faiss",
    "dmin:ef_construction=100": "ef_construction=100: has an effect with search=hnsw only",
    "dmin:search=hnsw,index=Flat": "index=Flat: has an effect with search=faiss only, not with search=hnsw",
    "dmin:nprobe=8": "nprobe=8: has an effect with search=faiss only",
    "dmin:rerank=0": "rerank=0: has an effect with search=faiss only",
    "dmin:v=none,dtype=int8": "dtype=int8: has an effect with v only",
    "dmin:v=none,search=hnsw": "search=hnsw needs a sketch",
    "datainf:hessian=identity,damping=1": "damping=1.0: has an effect with hessian=inverse only",
    "datainf:hessian=identity,damping_mode=absolute": "damping_mode=absolute: has an effect with hessian=inverse only",
    "lissa:hessian=ggn,v=64": "v=64: has an effect with hessian=fisher only, not with hessian=ggn",
    "lissa:hessian=hessian,sketch=gaussian": "sketch=gaussian: has an effect with hessian=fisher only",
    "lissa:hessian=ggn,seed=1": "seed=1: has an effect with hessian=fisher only",
    "lissa:hessian=ggn,blocks=single": "blocks=single: has an effect with hessian=fisher only",
    "lissa:hessian=ggn,concatenate=true": "concatenate=true: has an effect with hessian=fisher only",
    "lissa:blocks=single,batch=8,tolerance=0.1": "tolerance=0.1: has no effect with hessian=fisher and batch",
    "lissa:batch=8": "batch goes with blocks=single",
    "journey-trak:draws=5": "draws=5: has an effect with at only, not with at=none",
    "journey-trak:at=300,sampling_steps=10": "sampling_steps=10: has an effect with at=none only, not with at=300",
    "journey-trak:at=300,noise=shared": "noise=shared: all 20 draws would have the same noise; give draws=1",
    "d-trak:target=noise": "unknown option of method d-trak 'target'",
    "relative-if:output=squared-norm,target=noise": "target=noise: has an effect with output=loss|weighted-loss only",
    "renorm-if:output=squared-norm,target=trained": "target=trained: has an effect with output=loss|weighted-loss only",
    "dmin:output=squared-norm,target=noise": "target=noise: has an effect with output=loss|weighted-loss only",
    "trak:output=l1,target=trained": "target=trained: has an effect with output=loss|weighted-loss only",
    "datainf:output=mean": "unknown option of method datainf 'output'",
    "ekfac:normalize=true": "unknown option of method ekfac 'normalize'",
    **dict.fromkeys(
        ("tracin:checkpoints=1001", "diffusion-retrac:checkpoints=1000000"),
        "input should be less than or equal to 1000",
    ),
    "das:output=loss": "unknown option of method das 'output'",
    "das:residual=false,target=noise": "target=noise: has an effect with residual=true only, not with residual=false",
}
TAKEN = (
    "dmin:search=hnsw,M=32,ef=100,ef_construction=100,seed=1",
    "dmin:search=faiss,index=IVF64,Flat,nprobe=8,rerank=5,dtype=int8",
    "dmin:v=none,search=exact",
    "datainf:hessian=identity,blocks=single,v=64,seed=1",
    "lissa:hessian=ggn,damping=1,damping_mode=absolute,batch=8,tolerance=0.1,iterations=3",
    "lissa:blocks=single,batch=8,iterations=3",
    "journey-trak:at=300,noise=shared,draws=1",
    "journey-trak:at=300,draws=3",
    "journey-trak:noise=shared,sampling_steps=3",
    "relative-if:target=noise",
    "das:target=noise,leverage=false",
    "dmin:output=weighted-loss,target=noise,prompt=empty",
    "ekfac:target=noise,prompt=empty",
    "d-trak:output=linf,normalize=true,prompt=empty",
    "shuffled:normalize=false,sketch=gaussian",
)


def built(text: str, kind: str = "method") -> Options:
    (spec,) = parse_spec(text)
    return build_options(kind, spec, getattr(registry(), kind)(spec.name).Options)


@pytest.mark.parametrize(("text", "line"), REFUSED.items(), ids=REFUSED)
def test_options_without_an_effect_are_refused(text, line):
    with pytest.raises(UsageError) as caught:
        built(text)
    assert line in str(caught.value)


@pytest.mark.parametrize("text", TAKEN)
def test_options_with_an_effect_are_taken(text):
    assert built(text).model_fields_set == parse_spec(text)[0].given.keys()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sd3-lora:scale_items=9", "scale_items=9: has an effect with weights=random only, not with weights=trained"),
        ("sd14-lora:weights=random,lora=x", "lora=x: has an effect with weights=trained only"),
        ("sd3-lora:weights=random,dataset=x", "dataset=x: has an effect with weights=trained only"),
        ("sd3-full:weights=random,queries_per_group=3", "queries_per_group=3: has an effect with weights=trained only"),
        ("sd3-full:lora=x", "unknown option of task sd3-full 'lora'"),
        ("mnist-removal:removed=9", "removed=9: has an effect with removal=most-retrieved only"),
        ("ddpm-mnist:group_column=x", "group_column=x: has an effect with dataset only"),
    ],
)
def test_so_are_those_of_tasks(text, line):
    with pytest.raises(UsageError) as caught:
        built(text, "task")
    assert line in str(caught.value)


def test_d_trak_compares_the_output_with_nothing():
    assert "target" not in built("d-trak").model_dump()
    assert registry().method("d-trak")(built("d-trak")).features().train[0].source.target == "trained"
