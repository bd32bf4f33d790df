"""The chain of teacher, student and fine-tuning: what is run, what is skipped, what goes on."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser

from monai_ext.base.errors import InputError
from monai_ext.engines import Phase, TeacherStudentChain
from tests.bundles.conftest import LIMIT_S, environment
from tests.forked import run_python
from tests.nuclei import planted

BUNDLE = Path(__file__).parents[2] / "bundles/pathology_cell_semantic_segmentation"
ACCURATE = 0.9  # classes are colours: a few epochs suffice

# a phase that writes down the value it was given, and how often it was run
COUNTING = {
    "imports": ["$from pathlib import Path"],
    "dst": "",
    "value": 0,
    "resume": False,
    "num_workers": 0,
    "fail": False,
    "wait": "$1 / (not @fail)",
    "result": "$Path(@dst) / 'model.pt'",
    "log": "$Path(@dst) / 'log.txt'",
    "run": [
        "$Path(@dst).mkdir(parents=True, exist_ok=True)",
        "$@log.open('a').write(str(@value) + ' ' + str(@resume) + chr(10))",
        "$@wait",
        "$@result.write_text(str(@value))",
    ],
}


class Place:
    """A bundle of one configuration, and the chains that a test makes of it."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "configs").mkdir()
        self.write(COUNTING)
        (folder / "input.txt").write_text("one")

    def write(self, content):
        (self.folder / "configs/count.json").write_text(json.dumps(content))

    def chain(self, names="ab", settings=None, **options):
        phases, inputs = [], [str(self.folder / "input.txt")]
        for name in names:
            result = str(self.folder / name / "model.pt")
            own = {"dst": str(self.folder / name), **(settings or {}).get(name, {})}
            phases.append(Phase(name, ["configs/count.json"], result, own, inputs))
            inputs = [result]
        return TeacherStudentChain(phases, self.folder, self.folder, **options)

    def log(self, name):
        return (self.folder / name / "log.txt").read_text().split("\n")[:-1]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_what_is_done_is_skipped(place, capsys):
    assert place.chain().run() == ["a", "b"]
    assert place.chain().run() == []
    assert "phase 1/2, a: done before" in capsys.readouterr().out
    assert place.log("a") == ["0 False"]


def test_other_settings_run_the_phase_and_those_that_read_its_result(place):
    place.chain().run()
    assert place.chain(settings={"b": {"value": 1}}).run() == ["b"]
    assert place.chain(settings={"a": {"value": 2}, "b": {"value": 1}}).run() == ["a", "b"]
    assert place.log("b") == ["0 False", "1 False", "1 False"]


def test_nothing_is_a_setting_too(place):
    """MONAI drops ``None``, and the configuration's own value would stay."""
    place.chain("a", {"a": {"value": None}}).run()
    assert place.log("a") == ["None False"]


def test_changed_configurations_and_inputs_count(place):
    place.chain().run()
    place.write(COUNTING | {"value": 3})
    assert place.chain().run() == ["a", "b"]
    (place.folder / "input.txt").write_text("two!")
    assert place.chain().run() == ["a", "b"]
    (place.folder / "b/model.pt").unlink()
    assert place.chain().run() == ["b"]
    (place.folder / "b/phase_model.json").write_text("{cut")
    assert place.chain().run() == ["b"]


def test_where_and_how_fast_does_not_matter(place):
    place.chain().run()
    assert place.chain(settings={"a": {"num_workers": 4}}).run() == []


def test_a_stopped_phase_goes_on(place):
    with pytest.raises(RuntimeError):
        place.chain(settings={"a": {"fail": True}}).run()
    with pytest.raises(RuntimeError):
        place.chain(settings={"a": {"fail": True}}).run()
    assert place.log("a") == ["0 False", "0 True"]


def test_a_stopped_phase_of_other_settings_does_not(place):
    with pytest.raises(RuntimeError):
        place.chain(settings={"a": {"fail": True}}).run()
    (place.folder / "a/training_state.pt").write_text("of the old run")
    place.chain().run()
    assert place.log("a") == ["0 False", "0 False"]
    assert not (place.folder / "a/training_state.pt").exists()


def test_start_and_stop(place):
    assert place.chain("abc", stop="b").run() == ["a", "b"]
    assert place.chain("abc", start="c").run() == ["c"]
    shutil.rmtree(place.folder / "b")
    with pytest.raises(InputError, match=r"b/model.pt: expected an input of the phase c"):
        place.chain("abc", start="c").run()


def test_shared_settings_reach_who_knows_them(place):
    place.chain(settings={"b": {"value": 1}}).run()
    place.chain("ab", settings={"b": {"value": 1}})
    chain = place.chain()
    chain.runner.settings = {"value": 9, "unknown": 1}
    chain.run()
    assert place.log("a") == ["0 False", "9 False"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"start": "x"}, "start: expected one of a, b, found 'x'"),
        ({"start": "b", "stop": "a"}, "stop: expected a phase from b on"),
        ({"names": "aa"}, "phases of different names"),
        ({"settings": {"a": {"valeu": 1}}}, "phase a: expected entries of configs/count.json, found valeu"),
    ],
)
def test_mistakes_are_one_line(place, options, expected):
    with pytest.raises(InputError) as caught:
        place.chain(**options).run()
    assert expected in str(caught.value)


def test_a_missing_configuration(place):
    chain = TeacherStudentChain([{"name": "a", "configs": ["configs/no.json"], "result": "x"}], place.folder, "out")
    with pytest.raises(InputError, match=r"no.json: expected a configuration of the phase a"):
        chain.run()


# -- the bundle's own chain --------------------------------------------------------------------------------------------

# a dozen steps are too few for statistics that forget slowly
SMALL = {"_target_": "monai_ext.networks.nets.RCCNet", "patch_size": 16, "num_classes": 3, "norm_momentum": 0.5}
QUICK = {
    "patch_size": 16,
    "epochs": 4,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "norm_momentum": 0.5,
    "device": "cpu",
}


def chain_of(folder, **changes):
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs/chain.json"))
    parser.update(
        {
            "bundle_root": str(BUNDLE),
            "dataset_dir": str(folder / "data"),
            "models_dir": str(folder / "models"),
            "output_dir": str(folder / "eval"),
            "start": "teacher",
            "per_class": 6,
            "teacher_settings": {"network_def": SMALL},
            "student_settings": {"teacher_def": SMALL},
            "shared_settings": QUICK,
            **changes,
        }
    )
    parser.parse()
    return parser.get_parsed_content("chain")


@pytest.mark.slow
def test_the_whole_chain(tmp_path):
    planted(tmp_path / "data", images=(3, 2, 2), noise=0.2)
    ran = chain_of(tmp_path).run()
    assert [name for name in ran if "set" not in name] == [
        "teacher",
        "student",
        "finetuning",
        "student before fine-tuning",
        "fine-tuned student",
    ]
    table = pd.read_csv(tmp_path / "eval/chain.csv")
    assert table["phase"].tolist()[:2] == ["teacher, test set", "teacher, doctor set"]
    assert (table["f1"] > ACCURATE).all(), table
    assert {"f1 low", "f1 high", "accuracy", "precision", "recall"} <= set(table)
    assert chain_of(tmp_path).run() == []

    # the same teacher, a student of another annotation
    ran = chain_of(tmp_path, teacher_annotation="ssa", student_annotation="wsa", stop="student, doctor set").run()
    assert ran == ["student", "student, test set", "student, doctor set"]
    students = {path.name for path in (tmp_path / "models").iterdir()}
    assert students >= {"teacher_ssa", "teacher_ssa_student_ssa", "teacher_ssa_student_wsa"}

    # soft labels are another student; the paper's protocol another fine-tuning
    soft = {"teacher_def": SMALL, "soft": 1.0}
    assert chain_of(tmp_path, student_settings=soft, stop="student").run() == ["student"]
    ran = chain_of(tmp_path, student_settings=soft, expert_split="remainder", start="finetuning").run()
    assert ran == ["finetuning", "student before fine-tuning", "fine-tuned student"]
    table = pd.read_csv(tmp_path / "eval/chain.csv")
    assert table["phase"].tolist() == ["student before fine-tuning", "fine-tuned student"]
    metrics = json.loads((tmp_path / "eval/teacher_ssa_student_ssa_finetuned/metrics.json").read_text())
    counts = [len(pd.read_csv(p).query("ea == ea and ea != 'background'")) for p in tmp_path.glob("data/nuclei/*.csv")]
    assert metrics["nuclei"] == sum(counts) - 3 * 6


@pytest.mark.slow
def test_one_command(tmp_path):
    """As a user calls it; a mistake is one line."""
    planted(tmp_path / "data")
    options = {
        "start": "teacher",
        "dataset_dir": tmp_path / "data",
        "models_dir": tmp_path / "models",
        "output_dir": tmp_path / "eval",
        "per_class": 4,
        "teacher_settings": json.dumps({"network_def": SMALL}),
        "student_settings": json.dumps({"teacher_def": SMALL}),
        "shared_settings": json.dumps(QUICK | {"epochs": 1}),
    }

    def call(**changes):
        arguments = [str(a) for k, v in (options | changes).items() for a in (f"--{k}", v)]
        words = ["-m", "monai.bundle", "run", "--config_file", "configs/chain.json", *arguments]
        return run_python(words, BUNDLE, environment(), LIMIT_S)

    done = call()
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "eval/chain.csv").is_file()
    weights = torch.load(tmp_path / "models/teacher_ssa/model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    wrong = call(per_class=400)
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr
    assert "at least 320 nuclei of each class" in wrong.stderr.strip().splitlines()[-1]
