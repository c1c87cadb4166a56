import io

import pandas as pd
import pytest
from PIL import Image

from lop.errors import LopError
from lop.tasks.prepare import prepare_samples
from lop.tasks.samples import (
    decode_images,
    fingerprint,
    prompt_text,
    read_samples,
    split_by_image,
    write_samples,
)


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
    tables = prepare_samples(str(folder), 0, **sizes)
    assert {name: len(t) for name, t in tables.items()} == sizes
    seen = [image for t in tables.values() for image in t["image_id"].unique()]
    assert len(seen) == len(set(seen))
    again = prepare_samples(str(folder), 0, **sizes)
    assert all(fingerprint(tables[n]) == fingerprint(again[n]) for n in sizes)
    assert fingerprint(prepare_samples(str(folder), 1, **sizes)["reward"]) != fingerprint(
        tables["reward"]
    )


def test_the_reference_sets_share_no_image_and_no_test_question():
    sizes = {"calibration": 60, "reward": 40, "validation": 40, "benchmark": 80}
    tables = prepare_samples("reference", 0, **sizes)
    assert {name: len(t) for name, t in tables.items()} == sizes
    held_out = [tables[n] for n in ("calibration", "reward", "validation")]
    images = [image for t in held_out for image in t["image_id"].unique()]
    assert len(images) == len(set(images))
    asked = pd.concat(held_out)
    assert not set(asked["id"]) & set(tables["benchmark"]["id"])
    pictures = {i["bytes"] for images in asked["images"] for i in images}
    assert not pictures & {i["bytes"] for s in tables["benchmark"]["images"] for i in s}


def test_too_few_samples_are_named(folder):
    with pytest.raises(LopError, match="reward: wanted 500 samples, its images have only"):
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
    (folder / "samples.csv").write_text("image,question\n0.png,what?\n")
    with pytest.raises(LopError, match=r"no \['answer'\]"):
        read_samples(folder)
    (folder / "samples.csv").write_text("image,question,answer\n0.png,what?,\n")
    with pytest.raises(LopError, match="row 0: question and answer must not be empty"):
        read_samples(folder)


def test_image_identity_is_the_picture(tmp_path):
    table = pd.DataFrame({"image": [png("red"), png("red"), png("blue")], "question": "q?"})
    table.assign(answer="a").to_parquet(tmp_path / "t.parquet")
    ids = read_samples(tmp_path / "t.parquet")["image_id"]
    assert ids[0] == ids[1] != ids[2]
