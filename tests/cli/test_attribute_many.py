"""`attrbench attribute` with folders, several methods, lowest scores, near-duplicates, checkpoints and JSON lines."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from attrbench.errors import AttrbenchError
from tests.cli.conftest import OWN_ITEMS
from tests.data.making import picture

DMIN = "dmin:v=64,timesteps=2"


@pytest.fixture
def asked(tmp_path):
    """A folder of three pictures, the second of which is a training image."""
    for name, seed in (("a.png", 50), ("b.png", 3), ("c.png", 51)):
        picture(tmp_path / "asked" / name, seed)
    return tmp_path / "asked"


@pytest.fixture
def ask(attrbench, tmp_path, own):
    def run(*arguments, methods=("pixel",), task=own):
        flags = [part for method in methods for part in ("-m", method)]
        return attrbench("attribute", *flags, "-t", task, "--out", tmp_path / "out", "--device", "cpu", *arguments)

    return run


def said(done, code=0):
    assert done.code == code, done.err
    return json.loads(done.out)


def items(rows):
    return [row["item"] for row in rows]


def test_a_folder_gives_the_answers_of_its_pictures_in_name_order_after_single_images(ask, asked, tmp_path):
    single = tmp_path / "images" / "07.png"
    answers = said(ask("--image", single, "--image-dir", asked, "--json"))["queries"]
    assert [answer["name"].rpartition("/")[2] for answer in answers] == ["07.png", "a.png", "b.png", "c.png"]
    assert [answers[0]["ranking"][0]["item"], answers[2]["ranking"][0]["item"]] == [7, 3]
    alone = said(ask("--image", asked / "c.png", "--json"))["queries"][0]
    assert items(alone["ranking"]) == items(answers[3]["ranking"])


def test_several_methods_answer_as_each_alone_and_their_agreement_is_told(ask, asked):
    methods = (DMIN, "pixel")
    both = said(ask("--image-dir", asked, "--json", methods=methods))
    for method in methods:
        alone = said(ask("--image-dir", asked, "--json", methods=[method]))
        assert [query["methods"][method]["ranking"] for query in both["queries"]] == [
            query["ranking"] for query in alone["queries"]
        ]
    (pair,) = both["agreement"]
    assert pair["methods"] == list(methods) and pair["overlap"] == 1.0 and -1 <= pair["spearman"] <= 1
    assert [method["method"] for method in both["methods"]] == list(methods)


def test_tables_of_several_methods_fit_80_columns(ask, asked):
    methods = (DMIN, "pixel", "d-trak:v=64,timesteps=1", "dmin:v=32,timesteps=1")
    done = ask("--image", asked / "b.png", "-k", 4, "--lowest", 2, methods=methods)
    assert done.code == 0, done.err
    rows = [line for line in done.out.splitlines() if re.match(r" +\d+ ", line)]
    assert len(rows) == 2 * (4 + 2)  # three methods abreast, then the fourth
    pairs = [line for line in done.out.splitlines() if "pixel" in line and ", " in line and "=" not in line]
    assert len(pairs) >= 3
    assert all(len(line.rstrip()) <= 80 for line in [*rows, *pairs[-3:]])
    assert "dmin 1 is dmin:v=64,timesteps=2" in done.out and "dmin 4 is dmin:v=32,timesteps=1" in done.out
    assert "overlap@4" in done.out


def test_the_lowest_scores_are_the_end_of_the_whole_ranking_from_behind(ask, asked):
    whole = said(ask("--image", asked / "a.png", "-k", OWN_ITEMS, "--json"))["queries"][0]["ranking"]
    answer = said(ask("--image", asked / "a.png", "-k", 2, "--lowest", 3, "--json"))["queries"][0]
    assert items(answer["lowest"]) == items(whole)[:-4:-1]
    assert [row["score"] for row in answer["lowest"]] == [row["score"] for row in whole][:-4:-1]
    assert [row["rank"] for row in answer["lowest"]] == [1, 2, 3]


def test_a_method_that_searches_says_that_it_has_no_lowest_scores(ask, asked):
    search = "dmin:v=64,search=hnsw,timesteps=1"
    done = ask("--image", asked / "a.png", "-k", 2, "--lowest", 3, "--json", methods=[search])
    answer = said(done)
    assert "lowest" not in answer["queries"][0] and answer["methods"][0]["scores_all_items"] is False
    assert answer["notes"] == [f"{search}: it gives its top items only, so it has no lowest scores"]
    assert answer["notes"][0] in done.err
    both = said(ask("--image", asked / "a.png", "--json", methods=[search, "pixel"]))
    assert both["agreement"][0]["spearman"] is None and both["agreement"][0]["rbo"] is not None


def test_near_duplicates_are_one_row_with_all_scores_in_json(ask, own, tmp_path, asked):
    with Image.open(tmp_path / "images" / "03.png") as image:
        image.point(lambda value: min(255, value + 2)).save(tmp_path / "images" / "04.png")  # a little lighter
    question = ("--image", tmp_path / "images" / "03.png", "-k", 4)
    ranking = said(ask(*question, "--json"))["queries"][0]["ranking"]
    assert items(ranking[:2]) == [3, 4] and ranking[1]["duplicate_of"] == 3
    assert [row["rank"] for row in ranking] == [1, 2, 3, 4]
    assert not any("duplicate_of" in row for row in ranking[2:])
    ranks = [line.split()[0] for line in ask(*question).out.splitlines() if line.split()[:1] and "caption" in line]
    assert ranks == ["rank", "1", "3", "4"]
    assert "+1: 4" in ask(*question).out
    listed = said(ask(*question, "--duplicates", "list", "--json"))["queries"][0]["ranking"]
    assert items(listed) == items(ranking) and not any("duplicate_of" in row for row in listed)


def lines_of(done, code=0):
    assert done.code == code, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_a_stream_gives_the_answers_of_the_document_a_line_a_query_and_no_sheet(ask, asked, tmp_path):
    whole = said(ask("--image-dir", asked, "--json", "--lowest", 2, methods=[DMIN]))
    shutil.rmtree(tmp_path / "out" / "mine")
    done = ask("--image-dir", asked, "--format", "jsonl", "--lowest", 2, methods=[DMIN])
    lines = lines_of(done)
    assert [line["number"] for line in lines] == [0, 1, 2]
    for line, query in zip(lines, whole["queries"], strict=True):
        assert {name: line[name] for name in query} == query
        assert line["fingerprints"]["model"] == whole["fingerprints"]["model"]
    assert done.err.splitlines()[-1].startswith("3 queries in ") and "a second" in done.err
    assert not list((tmp_path / "out").rglob("attributed-*"))


def test_a_stream_goes_on_after_pictures_that_cannot_be_read_and_says_why(ask, asked):
    (asked / "aa.png").write_bytes(b"no picture")
    done = ask("--image-dir", asked, "--format", "jsonl")
    lines = lines_of(done, code=3)
    assert ["error" in line for line in lines] == [False, True, False, False]
    assert "aa.png cannot be read" in lines[1]["error"] and "ranking" not in lines[1]
    assert "1 without an answer" in done.err


def test_a_query_of_a_stream_without_gradients_has_a_reason_instead_of_a_ranking(ask, asked, monkeypatch):
    from attrbench.models.families.ddpm import DDPMDenoiser

    def target(self, latents, noise, t, real=DDPMDenoiser.target):
        values = real(self, latents, noise, t).clone()
        values[latents.flatten(1).std(dim=1) < 1e-6] = float("nan")
        return values

    monkeypatch.setattr(DDPMDenoiser, "target", target)
    Image.new("L", (8, 8), 77).save(asked / "blank.png")
    done = ask("--image-dir", asked, "--format", "jsonl", methods=[DMIN])
    lines = lines_of(done, code=3)
    assert [len(line["ranking"]) for line in lines] == [OWN_ITEMS, OWN_ITEMS, 0, OWN_ITEMS]
    assert "gradients were NaN or infinite" in lines[2]["error"]
    assert [len(line["nonfinite"]) for line in lines] == [0, 0, 2, 0] and lines[2]["nonfinite"][0][:2] == ["query", 2]
    assert "queries 0 to 3: 2 gradients were NaN or infinite" in done.err


def test_a_stream_that_is_asked_again_computes_no_gradient(ask, asked):
    first = ask("--image-dir", asked, "--format", "jsonl", methods=[DMIN])
    again = ask("--image-dir", asked, "--format", "jsonl", methods=[DMIN])
    assert "gradients" in first.err and "gradients" not in again.err
    assert again.out == first.out


def test_a_stream_draws_numbered_pages_where_a_sheet_is_asked_for(ask, asked, tmp_path):
    lines_of(ask("--image-dir", asked, "--format", "jsonl", "--sheet", tmp_path / "s.png"))
    assert Image.open(tmp_path / "s-1.png").height > 200 and not (tmp_path / "s.png").exists()


def test_fingerprints_follow_weights_training_set_and_queries(ask, asked, own, tiny_folder, tmp_path):
    def fingerprints(*arguments):
        return said(ask("--json", *arguments))["fingerprints"]

    first = fingerprints("--image", asked / "a.png")
    assert set(first) == {"model", "train", "queries"}
    other_query = fingerprints("--image", asked / "b.png")
    assert [other_query[part] == first[part] for part in ("model", "train", "queries")] == [True, True, False]
    other_weights = fingerprints("--image", asked / "a.png", "--checkpoint", changed(tiny_folder, tmp_path / "step"))
    assert [other_weights[part] == first[part] for part in ("model", "train", "queries")] == [False, True, True]
    picture(tmp_path / "images" / "05.png", 99)
    other_set = fingerprints("--image", asked / "a.png")
    assert [other_set[part] == first[part] for part in ("model", "train", "queries")] == [True, False, True]


def test_json_says_what_was_left_out_and_how_gradients_were_taken(ask, asked):
    answer = said(ask("--image", asked / "a.png", "--json", "--limit-train", 6, methods=[DMIN]))
    assert answer["left_out"] == {"train_items": 4, "limit_train": 6, "notes": []}
    (method,) = answer["methods"]
    assert method["options"]["v"] == 64 and method["version"] >= 1
    (gradients,) = method["gradients"]
    assert gradients["noise"] == "shared" and len(gradients["timesteps"]) == 2


def changed(folder, copy):
    """A training checkpoint: the network of a pipeline's folder with other weights, in a folder of its own."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / "unet", copy / "unet")
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    state = {name: tensor * 1.5 for name, tensor in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})
    return copy


def test_a_checkpoint_is_scored_with_its_own_weights_and_rows(ask, asked, tiny_folder, tmp_path):
    question = ("--image", asked / "a.png", "--json")
    own = said(ask(*question, methods=[DMIN]))
    step = changed(tiny_folder, tmp_path / "checkpoint-500")
    done = ask(*question, "--checkpoint", step, methods=[DMIN])
    assert "train gradients" in done.err
    assert said(done)["queries"] != own["queries"] and said(done)["checkpoint"] == str(step)
    same = ask(*question, "--checkpoint", tiny_folder / "unet", methods=[DMIN])
    assert said(same)["queries"] == own["queries"] and "gradients:" not in same.err


def test_a_mini_task_takes_checkpoints_of_its_training(attrbench, tmp_path, cache):
    from attrbench_tasks.shipped_weights import WEIGHTS

    step = WEIGHTS / "digits-mini" / "checkpoints" / "step-1000.safetensors"
    digit = picture(tmp_path / "a.png", 1, (8, 8), "L")

    def fingerprint(*arguments):
        done = attrbench(
            "attribute", "-m", "pixel", "-t", "digits-mini", "--image", digit, "--json", "--limit-train", 40,
            "--out", tmp_path / "out", "--cache", cache, *arguments,
        )  # fmt: skip
        return said(done)["fingerprints"]["model"]

    own = fingerprint()
    assert fingerprint("--checkpoint", step) != own
    assert fingerprint("--checkpoint", WEIGHTS / "digits-mini" / "unet") == own


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--image-dir", "NOWHERE"), "--image-dir"),
        (("--image-dir", "ASKED", "--checkpoint", "NOWHERE"), "there is no such file or folder"),
        (("--image-dir", "ASKED", "--checkpoint", "ASKED"), "no weights for model"),
        (("--image-dir", "ASKED", "--json", "--format", "jsonl"), "leave out one of them"),
        (("--image-dir", "ASKED", "--sheet", "QUERY", "--force"), "is the picture to attribute"),
    ],
)
def test_wrong_questions_are_one_line(ask, asked, tmp_path, arguments, words):
    places = {"NOWHERE": tmp_path / "nowhere", "ASKED": asked, "QUERY": asked / "a.png"}
    done = ask(*(places.get(argument, argument) for argument in arguments))
    assert done.code == 2
    assert len(done.complaint) == 1 and words in done.complaint[0]


def test_a_task_that_has_no_other_weights_says_so(toy_task):
    with pytest.raises(AttrbenchError, match="can't be asked with other weights"):
        toy_task.with_weights("anywhere")


@pytest.fixture
def toy_task():
    from attrbench.conformance.toy_task import ToyTask

    return ToyTask(ToyTask.Options())


def test_the_sheet_has_a_row_for_each_method_and_for_the_lowest(ask, asked, tmp_path):
    def height(*arguments, methods=("pixel",)):
        sheet = tmp_path / "sheet.png"
        assert (
            ask("--image", asked / "a.png", "-k", 3, "--sheet", sheet, "--force", *arguments, methods=methods).code == 0
        )
        return np.asarray(Image.open(sheet)).shape[0]

    one = height()
    row = height("--lowest", 2) - one
    assert row > 144
    assert height("--lowest", 2, methods=("pixel", "pixel:similarity=l2")) >= one + 3 * row - 40
