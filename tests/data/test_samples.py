import base64
import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lop.data.prepare import prepare_samples
from lop.data.samples import (
    accepted,
    check_answered,
    decode_images,
    document,
    fingerprint,
    label,
    prompt_text,
    read_samples,
    split_by_image,
    write_samples,
)
from lop.errors import LopError


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """A user's own data: a CSV beside its image files."""
    rows = []
    for i in range(60):
        (tmp_path / f"{i}.png").write_bytes(png((4 * i, 0, 0)))
        for answer in ("yes", "no"):
            rows.append({"image": f"{i}.png", "question": f"is it {answer}?", "answer": answer})
    pd.DataFrame(rows).assign(choices="yes|no").to_csv(tmp_path / "samples.csv", index=False)
    return tmp_path


def test_a_folder_becomes_samples(folder):
    samples = read_samples(folder)
    assert len(samples) == 120
    assert samples["image_id"].nunique() == 60
    assert decode_images(samples.iloc[2])[0].getpixel((0, 0)) == (4, 0, 0)
    assert prompt_text(samples.iloc[0]) == "is it yes?\nA. yes\nB. no"


def test_parquet_survives_and_datasets_reads_it(folder, tmp_path):
    from datasets import load_dataset

    samples = read_samples(folder)
    write_samples(samples, tmp_path / "s.parquet")
    assert fingerprint(read_samples(tmp_path / "s.parquet")) == fingerprint(samples)
    files, cache = {"test": str(tmp_path / "s.parquet")}, str(tmp_path / "cache")
    rows = load_dataset("parquet", data_files=files, split="test", cache_dir=cache)
    assert rows[2]["images"][0].getpixel((0, 0)) == (4, 0, 0)


def test_an_images_parquet_of_hugging_face_is_read(tmp_path):
    table = pd.DataFrame({"image": [{"bytes": png("red"), "path": "a.png"}], "question": "q?"})
    table.assign(answer="a").to_parquet(tmp_path / "hf.parquet")
    assert decode_images(read_samples(tmp_path / "hf.parquet").iloc[0])[0].size == (8, 8)


def test_splits_share_no_image(folder):
    sizes = {"calibration": 40, "reward": 20, "validation": 20, "benchmark": 20}
    tables = prepare_samples(str(folder), 0, sizes)
    assert {name: len(t) for name, t in tables.items()} == sizes
    seen = [image for t in tables.values() for image in t["image_id"].unique()]
    assert len(seen) == len(set(seen))
    again = prepare_samples(str(folder), 0, sizes)
    assert all(fingerprint(tables[n]) == fingerprint(again[n]) for n in sizes)
    assert fingerprint(prepare_samples(str(folder), 1, sizes)["reward"]) != fingerprint(
        tables["reward"]
    )


def test_a_benchmark_of_none_takes_all_that_the_others_leave(folder):
    sizes = {"calibration": 39, "reward": 20, "validation": 21, "benchmark": None}
    tables = prepare_samples(str(folder), 0, sizes)
    # two questions an image: 20, 10 and 11 of the 60 images are taken
    lengths = {name: len(table) for name, table in tables.items()}
    assert lengths == {"calibration": 39, "reward": 20, "validation": 21, "benchmark": 2 * 19}
    seen = [image for t in tables.values() for image in t["image_id"].unique()]
    assert len(seen) == len(set(seen)) == 60
    with pytest.raises(LopError, match="no picture or document is left; the source has 60"):
        prepare_samples(str(folder), 0, sizes | {"calibration": 80, "validation": 20})
    with pytest.raises(LopError, match="validation: wanted 50 samples, .* have only 40"):
        prepare_samples(str(folder), 0, sizes | {"calibration": 60, "validation": 50})
    with pytest.raises(LopError, match=r"prepare\.reward 0: expected at least 1"):
        prepare_samples(str(folder), 0, sizes | {"reward": 0})


def test_the_reference_sets_share_no_image_and_no_test_question():
    sizes = {"calibration": 60, "reward": 40, "validation": 40, "benchmark": 80}
    tables = prepare_samples("reference", 0, sizes)
    assert {name: len(t) for name, t in tables.items()} == sizes
    held_out = [tables[n] for n in ("calibration", "reward", "validation")]
    images = [image for t in held_out for image in t["image_id"].unique()]
    assert len(images) == len(set(images))
    asked = pd.concat(held_out)
    assert not set(asked["id"]) & set(tables["benchmark"]["id"])
    pictures = {i["bytes"] for images in asked["images"] for i in images}
    assert not pictures & {i["bytes"] for s in tables["benchmark"]["images"] for i in s}


def test_too_few_samples_are_named(folder):
    with pytest.raises(LopError, match="reward: wanted 500 samples, its pictures or"):
        split_by_image(read_samples(folder), {"reward": 500, "validation": 500}, seed=0)


def test_bad_sources_are_named(folder, tmp_path):
    with pytest.raises(LopError, match="expected a folder, or a .parquet"):
        read_samples(tmp_path / "nowhere")
    (folder / "7.png").unlink()
    with pytest.raises(LopError, match=r"row 14: no image file .*7\.png"):
        read_samples(folder)
    (folder / "7.png").write_bytes(b"not a picture")
    with pytest.raises(LopError, match="row 14: not an image that can be read"):
        read_samples(folder)
    (folder / "samples.csv").write_text("image,answer\n0.png,yes\n")
    with pytest.raises(LopError, match="expected rows with a question or a text; no such column"):
        read_samples(folder)
    (folder / "samples.csv").write_text("image,question,answer\n0.png,,yes\n")
    with pytest.raises(LopError, match="row 0: question and text must not both be empty"):
        read_samples(folder)


def test_image_identity_is_the_picture(tmp_path):
    table = pd.DataFrame({"image": [png("red"), png("red"), png("blue")], "question": "q?"})
    table.assign(answer="a").to_parquet(tmp_path / "t.parquet")
    ids = read_samples(tmp_path / "t.parquet")["image_id"]
    assert ids[0] == ids[1] != ids[2]


def written(folder, *rows, name="rows.jsonl"):
    """JSON lines beside a red picture, which each row asks about unless it says otherwise."""
    (folder / "red.png").write_bytes(png("red"))
    base = {"image": "red.png", "question": "what?", "answer": "yes"}
    lines = [json.dumps({k: v for k, v in (base | row).items() if v != "absent"}) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def test_several_answers_are_right_and_numbers_are_text(tmp_path):
    file = written(
        tmp_path, {"answer": ["yes", "yeah", "yes"]}, {"answer": 3}, {"answer": 2.5},
        {"answer": "absent", "answers": ["a", "b"]}, {"answer": "nan"}, {"answers": ["no"]},
    )  # fmt: skip
    samples = read_samples(file)
    assert samples["answer"].tolist() == ["yes", "3", "2.5", "a", "nan", "yes"]
    all_answers = [["yes", "yeah"], ["3"], ["2.5"], ["a", "b"], ["nan"], ["yes", "no"]]
    assert samples["answers"].tolist() == all_answers
    write_samples(samples, tmp_path / "s.parquet")
    back = read_samples(tmp_path / "s.parquet")
    assert [accepted(row) for row in back.to_dict("records")] == all_answers
    old = samples.drop(columns="answers")
    assert accepted(old.iloc[0]) == ["yes"], "a table without the column has one answer"
    write_samples(old, tmp_path / "old.parquet")
    assert read_samples(tmp_path / "old.parquet")["answers"].tolist()[0] == ["yes"]


def test_integers_beside_nulls_stay_integers_in_parquet(tmp_path):
    table = pd.DataFrame({"image": [png("red")] * 2, "question": "q?", "answer": ["a", "b"]})
    table.assign(id=pd.array([7, None], "Int64")).to_parquet(tmp_path / "t.parquet")
    assert read_samples(tmp_path / "t.parquet")["id"].tolist() == ["7", "1"]


def test_columns_may_be_there_in_some_rows_only(tmp_path):
    (tmp_path / "blue.png").write_bytes(png("blue"))
    samples = read_samples(
        written(
            tmp_path,
            {"choices": ["yes", "no"], "image_id": 5, "id": "first"},
            {"images": ["red.png", "blue.png"], "image": "absent", "choices": None},
            {"image": "blue.png", "choices": "a|b"},
            {"images": None},
        )
    )
    assert samples["choices"].tolist() == [["yes", "no"], None, ["a", "b"], None]
    assert [len(images) for images in samples["images"]] == [1, 2, 1, 1]
    assert samples["id"].tolist() == ["first", "1", "2", "3"]
    assert samples["image_id"].nunique() == 4, "a missing one is that of the pictures"
    assert samples["image_id"][0] == "5"


def test_a_question_may_have_no_picture_and_no_known_answer(tmp_path):
    file = written(
        tmp_path, {"answer": None}, {"answer": "absent", "image": None}, {"image": "absent"},
        {"image": None, "answer": [], "id": "log"}, {"images": [], "image": "absent"},
    )  # fmt: skip
    samples = read_samples(file)
    assert [len(images) for images in samples["images"]] == [1, 0, 0, 0, 0]
    assert samples["answer"].tolist() == [None, None, "yes", None, "yes"]
    assert [accepted(row) for row in samples.to_dict("records")] == [[], [], ["yes"], [], ["yes"]]
    assert samples["image_id"].nunique() == 2, "one picture, and one question in the same words"
    write_samples(samples, tmp_path / "s.parquet")
    again = read_samples(tmp_path / "s.parquet")
    assert fingerprint(again) == fingerprint(samples)
    assert again["answer"].tolist() == samples["answer"].tolist()
    check_answered(samples.iloc[[2, 4]], "the reward loglik")
    with pytest.raises(LopError, match="sample log: no answer, and the reward loglik needs one"):
        check_answered(samples.iloc[2:], "the reward loglik")


def test_documents_come_as_rows_or_as_files(tmp_path):
    texts = ["Once upon a time.\n\nThe end. ", "Übung", "Once upon a time.\n\nThe end. "]
    (tmp_path / "files").mkdir()
    for i, text in enumerate(texts):
        (tmp_path / "files" / f"{i}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    pd.DataFrame({"text": texts, "label": 1}).to_csv(tmp_path / "b.csv", index=False)
    pd.DataFrame({"text": texts, "question": [None] * 3}).to_parquet(tmp_path / "c.parquet")
    for name in ("files", "a.jsonl", "b.csv", "c.parquet"):
        samples = read_samples(tmp_path / name)
        rows = samples.to_dict("records")
        assert [document(row) for row in rows] == texts
        assert [label(row) for row in rows] == [None] * 3
        assert samples["image_id"].nunique() == 2, "the same text is one document"
        write_samples(samples, tmp_path / "s" / "s.parquet")
        assert fingerprint(read_samples(tmp_path / "s")) == fingerprint(samples)
    assert read_samples(tmp_path / "files")["id"].tolist() == ["0.txt", "1.txt", "2.txt"]
    assert read_samples(tmp_path / "files" / "1.txt")["text"].tolist() == ["Übung"]
    with pytest.raises(LopError, match="sample 0: a text, and the task needs questions with"):
        check_answered(samples, "the task", texts=False)


def test_a_table_counts_before_the_texts_beside_it(tmp_path):
    (tmp_path / "README.txt").write_text("These are samples.")
    assert len(read_samples(written(tmp_path, {}).parent)) == 1
    (tmp_path / "more.csv").write_text("question\nwhat?\n")
    with pytest.raises(LopError, match="expected one .parquet, .csv or .jsonl file, or .txt files"):
        read_samples(tmp_path)
    (tmp_path / "empty.txt").write_text(" ")
    with pytest.raises(LopError, match=r"empty\.txt, row 0: question and text must not both be"):
        read_samples(tmp_path / "empty.txt")


def test_pictures_may_be_base64_or_a_data_url(tmp_path):
    text = base64.b64encode(png("red")).decode()
    url = f"data:image/png;base64,{text}"
    samples = read_samples(written(tmp_path, {"image": text}, {"image": url}, {}))
    assert samples["images"].map(lambda images: images[0]["bytes"]).tolist() == [png("red")] * 3
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    large = base64.b64encode(buffer.getvalue()).decode()
    (tmp_path / "large.csv").write_text(f"image,question,answer\n{large},what?,yes\n")
    assert len(large) > 131_072, "more than csv takes by itself"
    assert decode_images(read_samples(tmp_path / "large.csv").iloc[0])[0].size == (256, 256)
    with pytest.raises(LopError, match="row 0: image x+…: File name too long"):
        read_samples(written(tmp_path, {"image": "x" * 5000}))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": ["a", None]}, "one of them is empty"),
        ({"answer": {"text": "a"}}, "expected text or a number"),
        ({"answer": True}, "answer True: expected text or a number"),
        ({"answer": float("inf")}, "answer inf: expected"),
        ({"question": 5}, "question 5: expected text"),
        ({"question": None}, "question and text must not both be empty"),
        ({"question": " ", "text": "a"}, "a text without a question: expected no picture"),
        ({"question": "", "text": "a", "image": None}, "expected no picture, choices or answer"),
        ({"question": "", "text": 5}, "text 5: expected text"),
        ({"answer": None, "answers": ["a"]}, "answer and answers: expected both or none"),
        ({"question": "half \ud800"}, "half of a surrogate pair"),
        ({"image": 5}, "image 5: expected bytes, a path, or base64"),
        ({"image": "none.png"}, r"no image file .*none\.png"),
        ({"image": "."}, "no image file"),
        ({"image": "data:image/png;base64,AAAA"}, "nor base64 of a picture"),
        ({"choices": ["a", ""]}, "choices .*: one of them is empty"),
        ({"choices": [["a"]]}, "expected text or a number"),
        ({"choices": ["x"] * 27}, "27 choices: expected at most 26"),
        ({"id": "0"}, "id '0' is that of row 0, too"),
        ({"id": [1]}, "id .*: expected text or a number"),
        ({"image_id": {}}, "image_id .*: expected text or a number"),
    ],
)  # fmt: skip
def test_a_row_is_valid_or_refused_by_its_number(tmp_path, row, said):
    with pytest.raises(LopError, match=rf"rows\.jsonl, row 1: .*{said}") as caught:
        read_samples(written(tmp_path, {}, row))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.csv", b'image,question,answer\nred.png,"what,yes\n', "line 2: unexpected end of data"),
        ("x.csv", b'image,question,answer\nred.png,"a"b,yes\n', "line 2: ',' expected after"),
        ("x.csv", b"image,question,answer\nred.png,a,b,yes\n", "line 2: expected 3 cells"),
        ("x.csv", b"image,question,answer\nred.png,a\n", "line 2: expected 3 cells"),
        ("x.csv", b"image,question,answer\nred.png,\xe9,yes\n", "line 2: not UTF-8"),
        ("x.csv", b"", "expected rows with a question or a text; no rows"),
        ("x.jsonl", b'{"question": "a"}\n{"question"\n', "line 2: not JSON"),
        ("x.jsonl", b"[1]\n", "line 1: expected an object"),
        ("x.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("x.jsonl", b"\xff\xfe", "line 1: not UTF-8"),
        ("x.parquet", b"PAR1", "cannot read samples: Parquet file size is 4 bytes"),
    ],
)
def test_broken_tables_are_refused_by_their_line(tmp_path, name, text, said):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(LopError, match=rf"{name}: .*{said}") as caught:
        read_samples(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_fingerprint_names_all_that_changes_a_number(tmp_path):
    (tmp_path / "blue.png").write_bytes(png("blue"))
    base = {"image": "absent", "images": ["red.png", "blue.png"], "choices": ["a", "b"]}
    base |= {"answer": ["a", "b"], "image_id": "i"}
    text = dict.fromkeys(base | {"question": 0}) | {"image_id": "i", "text": "A text."}
    changes = [
        {}, {"images": ["blue.png", "red.png"]}, {"images": ["red.png"]}, {"choices": ["a", "c"]},
        {"choices": None, "question": "what?\nA. a\nB. b"}, {"answer": ["a"]}, {"id": "x"},
        {"answer": ["b", "a"]}, {"question": "why?"}, {"image_id": "j"}, {"category": "c"},
        {"answer": None}, {"images": None}, text, text | {"text": "A text?"},
    ]  # fmt: skip
    found = [fingerprint(read_samples(written(tmp_path, base | change))) for change in changes]
    assert len(set(found)) == len(changes)
    assert found[0] == fingerprint(read_samples(written(tmp_path, base)))
