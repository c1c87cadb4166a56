"""Steps are done once, in order, and say how long the rest takes."""

from benchmarks.grid.progress import Step, run


def test_only_what_is_not_there_is_done(tmp_path):
    said: list[str] = []
    steps = [
        Step(name, tmp_path / name, cost, (tmp_path / name).touch)
        for name, cost in (("a", 1), ("b", 3), ("c", 0))
    ]
    (tmp_path / "a").touch()
    run(steps, said.append)
    assert said[0] == "1 of 3 steps are there"
    assert [line.split(":")[0] for line in said[1:]] == ["b", "c"]
    assert said[-1].endswith("2 of 2, 0 min left")
    run(steps, said.append)
    assert said[-1] == "3 of 3 steps are there"
