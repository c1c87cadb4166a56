"""Benchmark tasks over published columns: read, prompted, judged and summed up as officially."""

import io
import json

import pandas as pd
import pytest
from PIL import Image

from lop.data.samples import write_samples
from lop.errors import LopError
from lop.evaluation.tasks import tables
from lop.evaluation.tasks.benchmarks import BENCHMARKS, FOLDER, locate
from lop.evaluation.tasks.mmbench import utils as mmbench
from lop.evaluation.tasks.mme import utils as mme
from lop.evaluation.tasks.mmmu import utils as mmmu
from lop.evaluation.tasks.pope import utils as pope
from lop.reference import easyvqa, easyvqa_benchmarks, knowledge


@pytest.fixture(scope="module")
def picture():
    return easyvqa.load("test")["images"].iloc[0][0]


def parquet(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    easyvqa_benchmarks.write(rows, path)
    return path


def load_task(name, data):
    from lm_eval.tasks import TaskManager

    metadata = {BENCHMARKS[name].key: str(data)}
    manager = TaskManager(include_path=FOLDER, include_defaults=False, metadata=metadata)
    return manager.load([name])["tasks"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Yes", "yes"), ("yes, it is", "yes"), (" No.", "no"), ("", "other"), ("maybe", "other"),
        ("The answer is yes", "other"), ("Not at all", "no"), ("n", "other"), ("\nYES!", "yes"),
    ],
)  # fmt: skip
def test_mme_reads_the_first_letters(text, meant):
    assert mme.parse(text) == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Yes", "yes"), ("No", "no"), ("No, there is none", "no"), ("", "yes"), ("nothing", "yes"),
        ("There is not. Yes", "no"), ("Yes. Not sure", "yes"), ("it is,not", "yes"), ("no\n", "no"),
    ],
)  # fmt: skip
def test_pope_looks_for_a_no_in_the_first_sentence(text, meant):
    assert pope.parse(text) == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("B", "B"), ("(B) a cat", "B"), ("B.", "B"), ("The answer is C.", "C"), ("a dog", "A"),
        ("It is a CAT", "B"), ("A or B", ""), ("", ""), ("D", ""), ("none of them", ""),
        ("A dog sits there now", "A"), ("A horse sits there now", ""), ("dog and cat", ""),
    ],
)  # fmt: skip
def test_mmbench_reads_a_letter_or_a_text(text, meant):
    assert mmbench.parse(text, {"A": "dog", "B": "cat", "C": "bird"}) == meant


def question(picture, **changes):
    return {
        "index": 7, "question": "what is it?", "hint": "nan", "answer": "B", "A": "dog", "B": "cat",
        "C": "bird", "D": None, "category": "animals", "image": picture,
    } | changes  # fmt: skip


def test_mmbench_rotations(picture, tmp_path):
    file = parquet(tmp_path / "en" / "dev-00000-of-00001.parquet", question(picture))
    docs = mmbench.load(mmbench=str(tmp_path))["test"]
    assert docs["index"][:] == [7, 1_000_007, 2_000_007]
    assert docs["answer"][:] == ["B", "A", "C"]
    assert [docs[i]["A"] for i in range(3)] == ["dog", "cat", "bird"]
    assert [mmbench.choices(doc)[mmbench.target(doc)] for doc in docs] == ["cat"] * 3
    assert mmbench.doc_to_text(docs[1]).split("\n")[:4] == (
        ["<image>what is it?", "A. cat", "B. bird", "C. dog"]
    )
    # always A: right in one turn only
    rows = [mmbench.row(doc, ["A"]) for doc in docs]
    assert [row["correct"] for row in rows] == [False, True, False]
    assert {row["group"] for row in rows} == {"7"}
    # likelihoods; a tie is no answer
    assert mmbench.row(docs[0], [(-2.0, False), (-1.0, True), (-3.0, False)])["correct"]
    assert mmbench.row(docs[0], [(-1.0, False), (-1.0, True), (-3.0, False)])["prediction"] == ""
    # rotations that are published are taken as they are
    parquet(file, question(picture), question(picture, index=1_000_007, A="cat", B="dog"))
    assert len(mmbench.load(mmbench=str(tmp_path))["test"]) == 2
    with pytest.raises(LopError, match="answer 'D' is none of the choices"):
        mmbench.target(question(picture, answer="D"))


def test_mmbench_keeps_letters_where_a_choice_is_empty(picture, tmp_path):
    file = parquet(tmp_path / "m.parquet", question(picture, B="", C="cat", D="bird", answer="C"))
    docs = mmbench.load(mmbench=str(file))["test"]
    asked = mmbench.doc_to_text(docs[0]).split("\n")
    assert asked[:4] == ["<image>what is it?", "A. dog", "C. cat", "D. bird"]
    assert docs["answer"][:] == ["C", "A", "D"], "turned among the choices that there are"
    assert [mmbench.lettered(doc)[doc["answer"]] for doc in docs] == ["cat"] * 3
    assert mmbench.row(docs[0], ["C"])["correct"]
    assert mmbench.row(docs[0], ["it is a bird"])["prediction"] == "D"
    assert mmbench.row(docs[0], [(-2.0, False), (-1.0, True), (-3.0, False)])["prediction"] == "C"


def test_mmbench_turns_equal_choices_by_place(picture, tmp_path):
    same = question(picture, A="two", B="two", C="three", answer="B")
    docs = mmbench.load(mmbench=str(parquet(tmp_path / "m.parquet", same)))["test"]
    assert docs["answer"][:] == ["B", "A", "C"]
    # whoever follows the second "two" is right each time
    assert all(mmbench.row(doc, [doc["answer"]])["correct"] for doc in docs)


def test_mmbench_takes_an_index_as_text(picture, tmp_path):
    rows = [question(picture, index="7"), question(picture, index="1000007")]
    docs = mmbench.load(mmbench=str(parquet(tmp_path / "m.parquet", *rows)))["test"]
    assert docs["index"][:] == [7, 1_000_007], "rotations are published"
    assert [mmbench.row(doc, ["B"])["group"] for doc in docs] == ["7", "7"]


def yes_no(picture, **changes):
    return {
        "question_id": "color/1", "question": "Is it red?", "answer": "Yes", "category": "color",
        "image": picture,
    } | changes  # fmt: skip


def asked_of(picture, **changes):
    pope = {"question_id": "1", "image_source": "c1", "category": "random"}
    return yes_no(picture) | pope | changes


def college(picture, **changes):
    return {
        "id": "validation_Art_1", "question": "<image 1> which?", "options": "['a', 'b']",
        "answer": "A", "question_type": "multiple-choice", "image_1": picture,
        **dict.fromkeys(mmmu.IMAGES[1:]),
    } | changes  # fmt: skip


THIN = io.BytesIO()
Image.new("RGB", (900, 4)).save(THIN, "PNG")


@pytest.mark.parametrize(
    ("task", "form", "changes", "said"),
    [
        ("pope", asked_of, {"answer": None}, "answer None: no right answer"),
        ("pope", asked_of, {"answer": "perhaps"}, "answer 'perhaps', expected Yes or No"),
        ("pope", asked_of, {"question": None}, "question is empty"),
        ("pope", asked_of, {"category": "odd"}, "'odd': expected one of random, popular"),
        ("pope", asked_of, {"image": None}, "no picture: expected its bytes"),
        ("pope", asked_of, {"image": {"bytes": b"x"}}, "not an image that can be read"),
        ("pope", asked_of, {"image": {"bytes": THIN.getvalue()}}, "900 × 4 pixels"),
        ("mme", yes_no, {"answer": ""}, "answer '': no right answer"),
        ("mme", yes_no, {"category": "smell"}, "'smell': expected one of existence"),
        ("mme", yes_no, {"question": " "}, "question is empty"),
        ("mme", yes_no, {"image": {"bytes": THIN.getvalue()}}, "900 × 4 pixels"),
        ("mmbench", question, {"index": "x7"}, "index 'x7': expected a whole number"),
        ("mmbench", question, {"answer": None}, "answer None: no right answer"),
        ("mmbench", question, {"answer": "D"}, "answer 'D' is none of the choices"),
        ("mmbench", question, {"B": ""}, "answer 'B' is none of the choices"),
        ("mmmu_val", college, {"answer": "?"}, r"answer '\?': no right answer"),
        ("mmmu_val", college, {"answer": "C"}, "answer C is none of the 2 options"),
        ("mmmu_val", college, {"options": "['a'"}, "expected a list, or the text of one"),
        ("mmmu_val", college, {"question_type": "essay"}, "'essay': expected one of"),
        ("mmmu_val", college, {"question": "<image 2>"}, "names <image 2>, and image_2 holds no"),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_by_file_and_number(
    picture, tmp_path, task, form, changes, said
):
    key = "index" if task == "mmbench" else "id" if task == "mmmu_val" else "question_id"
    first = {key: "8"} if task == "mmbench" and isinstance(changes.get("index"), str) else {}
    file = parquet(tmp_path / "t.parquet", form(picture, **first), form(picture, **changes))
    with pytest.raises(LopError, match=rf"t\.parquet, row 1: .*{said}"):
        BENCHMARKS[task].utils.load(**{BENCHMARKS[task].key: str(file)})


def test_image_in_a_question_is_text(picture, tmp_path):
    tagged = "<image>\nIs it red?"
    pairs = {
        "pope": asked_of(picture, question=tagged),
        "mme": yes_no(picture, question=tagged),
        "mmbench": question(picture, question=tagged, A="<image>"),
        "mmmu_val": college(picture, question=f"<image 1> {tagged}", options="['<image>', 'b']"),
    }
    for name, row in pairs.items():
        task = load_task(name, parquet(tmp_path / f"{name}.parquet", row))[name]
        doc = next(iter(task.test_docs()))
        text = task.doc_to_text(doc)
        assert text.count("<image>") == len(task.doc_to_image(doc)) == 1, name
        assert "< image >" in text, name


def test_mmmu_takes_lists_and_several_right_answers(picture, tmp_path):
    rows = [
        college(picture, options=["a", "b"]),
        college(picture, answer="['A', 'B']"),
        college(picture, answer="['24/7', '3.4']", options="[]", question_type="open"),
        college(picture, answer="[0, 1]", options="[]", question_type="open"),
    ]
    tables = [parquet(tmp_path / f"{i}.parquet", row) for i, row in enumerate(rows)]
    docs = [mmmu.load(mmmu_val=str(file))["test"][0] for file in tables]
    assert mmmu.choices(docs[0]) == ["a", "b"]
    assert mmmu.row(docs[0], ["A"])["correct"]
    assert all(mmmu.row(docs[1], [letter])["correct"] for letter in "AB")
    assert all(mmmu.row(docs[2], [f"It is {said}"])["correct"] for said in ("24/7", "3.4"))
    assert not mmmu.row(docs[2], ["It is 5"])["correct"]
    assert docs[3]["answer"] == "[0, 1]", "numbers in brackets are an answer as it stands"


def test_questions_are_told_to_be_about_the_same_picture(picture, tmp_path):
    other = easyvqa.load("test")["images"].iloc[-1][0]
    rows = [
        college(picture, id="validation_Art_1", image_2=other),
        college(picture, id="validation_Art_2", image_2=other),
        college(picture, id="validation_Art_3"),
    ]
    docs = mmmu.load(mmmu_val=str(parquet(tmp_path / "t.parquet", *rows)))["test"]
    one, same, alone = (mmmu.row(doc, ["A"])["picture"] for doc in docs)
    assert one == same != alone
    pair = [yes_no(picture), yes_no(picture, question_id="count/1", category="count")]
    docs = mme.load(mme=str(parquet(tmp_path / "m.parquet", *pair)))["test"]
    found = [mme.row(doc, ["yes"]) for doc in docs]
    assert found[0]["picture"] == found[1]["picture"]
    assert found[0]["group"] != found[1]["group"]


def test_mme_through_lm_eval(picture, tmp_path):
    base = {"question_id": "color/1.png", "image": picture, "category": "color"}
    rows = [
        base | {"question": "Is it red? Please answer yes or no.", "answer": "Yes"},
        base | {"question": "Is it blue? Please answer yes or no.", "answer": "No"},
    ]
    parquet(tmp_path / "data" / "test-00000-of-00002.parquet", rows[0])
    parquet(tmp_path / "data" / "test-00001-of-00002.parquet", rows[1])
    task = load_task("mme", tmp_path)["mme"]
    docs = list(task.test_docs())
    assert task.doc_to_text(docs[0]) == "<image>Is it red? Please answer yes or no."
    assert isinstance(task.doc_to_image(docs[0])[0], Image.Image)
    assert task.doc_to_image(docs[0])[0] is task.doc_to_image(docs[1])[0], "decoded once"
    judged = [
        task.process_results(doc, [said]) for doc, said in zip(docs, ("Yes", "no"), strict=True)
    ]
    assert judged[0].keys() == {"score", "perception", "color"}
    figures = task.aggregation()
    assert figures["perception"]([each["perception"] for each in judged]) == 200
    assert figures["color"]([judged[0]["color"]]) == 100
    assert len({row["id"] for each in judged for row in each.values()}) == 2
    assert {"cognition", "OCR", "code_reasoning"} <= figures.keys()


def test_pope_through_lm_eval(picture, tmp_path):
    base = {"question_id": "1", "question": "Is there a dog in the image?", "image": picture}
    base |= {"image_source": "COCO_1", "answer": "no"}
    file = parquet(tmp_path / "p.parquet", *(base | {"category": c} for c in ("random", "popular")))
    task = load_task("pope", file)["pope"]
    judged = [task.process_results(doc, [said]) for doc, said in
              zip(task.test_docs(), ("No.", "Yes"), strict=True)]  # fmt: skip
    figures = task.aggregation()
    assert figures["accuracy"]([each["accuracy"] for each in judged]) == 0.5
    assert figures["yes_ratio_popular"]([judged[1]["yes_ratio_popular"]]) == 1
    assert judged[0]["f1"]["id"] == "random-1"


def test_mmmu_reads_subjects_and_several_images(picture, tmp_path):
    other = easyvqa.load("test")["images"].iloc[-1][0]
    images = {"image_1": picture, "image_2": other, **dict.fromkeys(mmmu.IMAGES[2:])}
    choice = {
        "id": "validation_Art_Theory_3", "question": "<image 2> or <image 1>?", "answer": "B",
        "options": "['<image 1>', 'paint']", "question_type": "multiple-choice", **images,
    }  # fmt: skip
    number = choice | {"id": "validation_Math_1", "answer": "1200", "options": "[]"}
    number |= {"question_type": "open", "question": "<image 1> how many?"}
    parquet(tmp_path / "Art_Theory" / "validation-00000-of-00001.parquet", choice)
    parquet(tmp_path / "Math" / "validation-00000-of-00001.parquet", number)
    docs = mmmu.load(mmmu_val=str(tmp_path))["test"]
    assert [mmmu.subject(doc) for doc in docs] == ["Art_Theory", "Math"]
    first, second = (load_task("mmmu_val", tmp_path)["mmmu_val"].doc_to_text(doc) for doc in docs)
    assert first.count("<image>") == 3
    assert "(B) paint" in first
    assert second.startswith("<image> how many?")
    pictures = mmmu.doc_to_image(docs[0])
    assert pictures[1] is pictures[2] is not pictures[0]
    assert mmmu.row(docs[0], ["(B)"])["correct"]
    assert not mmmu.row(docs[0], ["A"])["correct"]
    assert mmmu.row(docs[1], ["There are 1,200 of them"])["correct"]
    assert not mmmu.row(docs[1], [""])["correct"]
    assert mmmu.row(docs[0], [(-1.0, False), (-0.5, True)])["prediction"] == "B"
    assert not mmmu.row(docs[0], [(-1.0, False), (-1.0, True)])["correct"], "a tie is no answer"
    guesses = {mmmu.row(docs[0], ["no idea"])["correct"] for _ in range(20)}
    assert len(guesses) == 1, "a guess depends on the question alone"


@pytest.fixture(scope="module")
def facts():
    return knowledge.load("test")


@pytest.fixture(scope="module")
def built(facts):
    with pytest.MonkeyPatch.context() as patch:  # drawn once for the module: it takes seconds
        patch.setattr(knowledge, "load", lambda split: {"test": facts}[split])
        return easyvqa_benchmarks.build(0)


def answered(table):
    return set(zip(table["question"], table["answer"], strict=True))


def test_easyvqa_tasks_have_the_published_columns_and_enough_questions(built):
    columns = {"mme": mme.COLUMNS, "mmbench": mmbench.COLUMNS}
    columns |= {"mmmu": mmmu.COLUMNS, "pope": pope.COLUMNS}
    assert built.keys() == {f"easyvqa_{name}" for name in columns}
    for name, needed in columns.items():
        rows = built[f"easyvqa_{name}"]
        assert len(rows) >= 1000
        assert set(needed) <= set(rows[0])
        module = BENCHMARKS[f"easyvqa_{name}"].utils
        ids = {module.row(row, ["yes"])["id"] for row in rows}
        assert len(ids) == len(rows), "an id is one question"


def test_easyvqa_tasks_say_only_what_is_published(built, facts):
    published = answered(easyvqa.load("test"))
    pairs = pd.DataFrame(built["easyvqa_mme"])
    assert answered(pairs.assign(answer=pairs["answer"].str.lower())) <= published
    assert set(pairs.groupby("question_id")["answer"].apply("".join)) == {"YesNo"}
    for row in built["easyvqa_mmbench"]:
        assert (row["question"], row[row["answer"]]) in published
    for row in built["easyvqa_mmmu"]:
        right = mmmu.choices(row)[mmmu.target(row)] if mmmu.choices(row) else row["answer"]
        assert (row["question"].removeprefix("<image 1>"), right) in published | answered(facts)


def test_easyvqa_pope_knows_what_is_there(built):
    shown = easyvqa_benchmarks._shown(easyvqa.load("test"))
    for row in built["easyvqa_pope"]:
        there = any(word in row["question"].split() for word in shown[row["image_source"]])
        assert (row["answer"] == "yes") == there
    asked = pd.DataFrame(built["easyvqa_pope"])
    no = asked[asked["answer"] == "no"]
    assert len(no) == len(asked) / 2
    kinds = no.groupby("category")["question"].nunique()
    assert kinds["popular"] < kinds["adversarial"] <= kinds["random"]


def test_where_data_lie(samples, tmp_path):
    benchmark = tmp_path / "benchmark.parquet"
    write_samples(samples, benchmark)
    parquet(tmp_path / "tasks" / "easyvqa_pope.parquet", {"a": 1})
    found = locate(["lop_vqa", "easyvqa_pope", "mme", {"pope": "some/where"}], benchmark)
    assert found == {
        "lop_vqa": str(benchmark),
        "easyvqa_pope": str(tmp_path / "tasks" / "easyvqa_pope.parquet"),
        "mme": "lmms-lab/MME",
        "pope": "some/where",
    }
    for tasks, said in (
        (["easyvqa_mme"], "easyvqa_mme: no data at .*; prepare writes them when"),
        (["smell"], "task 'smell': expected one of lop_vqa, lop_text"),
        (["mme", "mme"], "'mme' is named twice"),
        ([{"pope": "nowhere"}], "pope: no data at nowhere"),
        ([], "no tasks"),
    ):
        with pytest.raises(LopError, match=said):
            locate(tasks, benchmark)
    with pytest.raises(LopError, match="lop_vqa: give the path of its data"):
        locate(["lop_vqa"], None)


def test_bad_data_are_named(picture, tmp_path):
    file = parquet(tmp_path / "x.parquet", {"question": "q"})
    with pytest.raises(LopError, match=r"x\.parquet: no column 'question_id'; expected"):
        mme.load(mme=str(file))
    for load in (mme.load_easyvqa, mmbench.load_easyvqa, mmmu.load_open):
        with pytest.raises(LopError, match=r"easyvqa_\w+: no data; give metadata"):
            load(version=1.0)
    with pytest.raises(LopError, match="no such file or folder of benchmark data"):
        pope.load(pope="/nowhere/at/all")
    (tmp_path / "y.parquet").write_bytes(b"no table")
    with pytest.raises(LopError, match=r"y\.parquet: cannot read Parquet"):
        pope.load(pope=str(tmp_path / "y.parquet"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(LopError, match="no Parquet files of split 'test'"):
        mme.load(mme=str(tmp_path / "empty"))
    doc = {"question_id": "1", "image": {"bytes": b"x"}, "answer": "perhaps", "category": "OCR"}
    with pytest.raises(LopError, match="not an image"):
        tables.doc_to_image(doc)
    with pytest.raises(LopError, match="answer 'perhaps', expected Yes or No"):
        mme.row(doc | {"question": "?"}, ["yes"])


def test_prepare_writes_tasks_for_the_reference_only(samples, tmp_path):
    from lop.steps import preparing

    write_samples(samples, tmp_path / "own.parquet")
    sizes = {"calibration": 2, "reward": 2, "validation": 2, "benchmark": 2}
    preparing.prepare(tmp_path / "out", str(tmp_path / "own.parquet"), 0, sizes)
    assert json.loads((tmp_path / "out" / "tasks" / "index.json").read_text()) == {}
    assert len(list((tmp_path / "out" / "tasks").iterdir())) == 1
