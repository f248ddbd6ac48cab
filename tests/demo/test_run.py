import json
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.demo import run as demo_run
from spvmia_plugin.demo.chats import make_chats
from spvmia_plugin.demo.corpus import TASK
from spvmia_plugin.demo.kinds import CHATS, TICKETS, Size
from spvmia_plugin.demo.run import (
    Demo,
    Layout,
    finetune_command,
    lm_eval_command,
    newest_results,
    reading,
    run_process,
)
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.training import finetune as training
from spvmia_plugin.web.text import typed
from tests.tiny import save_tiny

SIZE = Size(members=4, prompts=2, questions=4, epochs=1, self_prompts=3, minutes=(1, 2, 3))


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """The demo's commands, answered at once: what each would leave behind, or the failure asked for."""
    ran, failing = [], set()
    layout = Layout(tmp_path / "demo")
    monkeypatch.setattr(Layout, "model", tmp_path / "cache" / "model")
    monkeypatch.setattr(demo_run, "is_complete", lambda folder: folder.exists())

    def answer(command, name, say):
        ran.append(name)
        if name in failing:
            raise SpvmiaError(f"demo: {name} failed")
        if name == "spvmia demo-model":
            layout.model.mkdir(parents=True)
        elif name == "spvmia finetune":
            layout.target.mkdir()
        elif name == "spvmia report":
            layout.report.touch()
        else:
            tasks = [*TICKETS.tasks, *CHATS.tasks]
            scores = {task: {"auroc,none": 0.5 + i / 100} for i, task in enumerate(tasks)}
            layout.results.mkdir(exist_ok=True)
            results = layout.results / "results_2026-01-01.json"
            results.write_text(json.dumps({"results": {**scores, TASK: {"acc,none": 0.75}}}))
        say(f"output of {name}")
        return f"output of {name}\n"

    monkeypatch.setattr(demo_run, "run_process", answer)
    return ran, failing, layout


ALL = ["spvmia demo-model", "spvmia finetune", "lm_eval run", "spvmia report"]
both = pytest.mark.parametrize("kind", [TICKETS, CHATS], ids=["tickets", "chats"])


@both
def test_a_demo_runs_every_step_and_says_where_things_lie(commands, kind):
    ran, _, layout = commands
    said = []
    places = Demo(layout.root, kind, SIZE, said.append).run()
    assert ran == ALL
    assert all(path.exists() for path in places.values() if path != layout.cache)
    text = "\n".join(said)
    assert said[0].startswith("About 6 minutes")
    assert text.count("output of lm_eval run") == 1
    assert all(str(path) in text for path in (layout.corpus, layout.target, layout.report, layout.model))
    assert stat.S_IMODE(layout.root.stat().st_mode) == 0o700
    assert len(layout.corpus.read_text(encoding="utf-8").splitlines()) == 10
    assert (layout.tasks / f"{TASK}.yaml").is_file()


@both
@pytest.mark.parametrize("failure", ALL)
def test_an_interrupted_demo_continues_where_it_was(commands, kind, failure):
    ran, failing, layout = commands
    failing.add(failure)
    with pytest.raises(SpvmiaError):
        Demo(layout.root, kind, SIZE, print).run()
    failing.clear()
    Demo(layout.root, kind, SIZE, print).run()
    before = ALL[: ALL.index(failure)]
    assert ran == [*before, failure, *ALL[len(before) :]]


@both
def test_a_finished_demo_shows_its_table_again_and_runs_nothing(commands, kind):
    ran, _, layout = commands
    Demo(layout.root, kind, SIZE, print).run()
    ran.clear()
    said = []
    Demo(layout.root, kind, SIZE, said.append).run()
    assert ran == []
    assert "finished already" in said[0]
    assert "output of lm_eval run" in "\n".join(said)


def test_a_target_that_was_finished_but_not_marked_is_kept(commands):
    """Killed between the last file of the target and the mark: fine-tuning again would be refused."""
    ran, _, layout = commands
    Demo(layout.root, TICKETS, SIZE, print).run()
    marks = json.loads(layout.progress.read_text())
    layout.progress.write_text(json.dumps({**marks, "done": ["model", "corpus"]}))
    (layout.target / "mia_manifest.json").write_text("{}")
    ran.clear()
    Demo(layout.root, TICKETS, SIZE, print).run()
    assert ran == ["lm_eval run", "spvmia report"]


def test_another_size_is_another_demo_with_the_same_model(commands):
    ran, _, layout = commands
    Demo(layout.root, TICKETS, SIZE, print).run()
    ran.clear()
    larger = Size(members=5, prompts=2, questions=4, epochs=1, self_prompts=3, minutes=(1, 2, 3))
    Demo(layout.root, TICKETS, larger, print).run()
    assert ran == ALL[1:]
    assert len(layout.corpus.read_text(encoding="utf-8").splitlines()) == 12


def test_chats_and_tickets_are_different_demos_with_the_same_model(commands):
    """In one folder each makes its own corpus, target and questions."""
    ran, _, layout = commands
    Demo(layout.root, TICKETS, SIZE, print).run()
    (layout.target / "left over").touch()
    for kind in (CHATS, TICKETS):
        ran.clear()
        Demo(layout.root, kind, SIZE, print).run()
        assert ran == ALL[1:]
        row = json.loads(layout.corpus.read_text(encoding="utf-8").splitlines()[0])
        assert list(row) == (["messages"] if kind is CHATS else ["text"])
        assert not (layout.target / "left over").exists()


def test_chats_are_trained_on_and_audited_by_their_answers(commands, monkeypatch):
    _, _, layout = commands
    configs = []
    monkeypatch.setattr(training, "finetune", lambda config, say: configs.append(config))
    words = finetune_command(layout, CHATS, CHATS.sizes["small"])[1:]
    assert CliRunner().invoke(make_app(), words).exit_code == 0
    assert (configs[0].loss_on, configs[0].block_size, configs[0].format) == ("completion", None, "auto")
    assert configs[0].lora_targets == "all-linear"
    audit = lm_eval_command(layout, CHATS, SIZE)
    options = json.loads(audit[audit.index("--metadata") + 1])
    read = AuditConfig.from_metadata(options)
    assert (read.self_prompt, read.preset, read.self_prompts) == ("reply", "quick", SIZE.self_prompts)
    assert audit[audit.index("--tasks") + 1] == ",".join([*(f"{attack}_custom" for attack in CHATS.attacks), TASK])
    assert "--apply_chat_template" in audit


@pytest.mark.parametrize("slow", [False, True])
def test_where_the_cpu_is_slow_in_the_models_precision_the_audit_is_in_float32(commands, monkeypatch, slow):
    _, _, layout = commands
    monkeypatch.setattr("spvmia_plugin.models.precision.is_slow_in", lambda dtype: slow)
    said = []
    Demo(layout.root, CHATS, SIZE, said.append).run()
    run, again = (line for line in said if line.startswith(("$ lm_eval", "lm_eval")))
    assert (",dtype=float32 " in run, ",dtype=float32 " in again) == (slow, slow)
    assert sum("has no instructions for bfloat16" in line for line in said) == slow


def test_tasks_that_lm_eval_does_not_know_lie_beside_the_capability_task(commands, monkeypatch):
    from lm_eval.tasks import TaskManager

    _, _, layout = commands
    monkeypatch.setattr(demo_run, "enabled", lambda: None)
    Demo(layout.root, CHATS, SIZE, print).run()
    manager = TaskManager(include_path=str(layout.tasks), include_defaults=False)
    assert {TASK, *(f"{attack}_custom" for attack in CHATS.attacks)} <= set(manager.all_tasks)


def test_one_conversation_is_shown_turn_by_turn(commands):
    _, _, layout = commands
    said = []
    Demo(layout.root, CHATS, SIZE, said.append).run()
    shown = next(line for line in said if line.startswith("one of them:"))
    assert [line.split(":")[0].strip() for line in shown.splitlines()[1:5]] == ["user", "assistant"] * 2
    assert "support conversations" in "\n".join(said)


@pytest.mark.parametrize(("words", "kind"), [((), TICKETS), (("--chat",), CHATS)])
def test_each_kind_has_a_folder_of_its_own(monkeypatch, tmp_path, words, kind):
    made = []

    class Seen:
        def __init__(self, root, kind, size, say):
            made.append((root, kind, size))

        def run(self):
            return {}

    monkeypatch.setattr(demo_run, "Demo", Seen)
    for given in ((), ("--output", str(tmp_path))):
        assert CliRunner().invoke(make_app(), ["demo", *words, *given]).exit_code == 0
    small = kind.sizes["small"]
    assert made == [(kind.folder, kind, small), (tmp_path, kind, small)]
    assert TICKETS.folder != CHATS.folder


def test_progress_that_cannot_be_read_is_not_progress_of_another_demo(commands, monkeypatch):
    """Its target, an hour's work, would be removed."""
    _, _, layout = commands
    Demo(layout.root, TICKETS, SIZE, print).run()
    plain = Path.read_bytes

    def read_bytes(path):
        if path == layout.progress:
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(SpvmiaError, match=r"--output: cannot read .* \(Permission denied\); make it readable"):
        Demo(layout.root, TICKETS, SIZE, print).run()
    assert layout.target.is_dir()


def test_other_peoples_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SpvmiaError, match=r"--output: expected a new or empty folder"):
        Demo(tmp_path, TICKETS, SIZE, print).run()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_as_output_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpvmiaError, match=r"--output: expected a folder, got the file"):
        Demo(tmp_path / "file", TICKETS, SIZE, print).run()


def test_missing_extra_is_said_first(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpvmiaError, match=r'faker.*pip install "spvmia-plugin\[demo\]"'):
        Demo(tmp_path / "demo", TICKETS, SIZE, print).run()
    assert not (tmp_path / "demo").exists()


def test_unknown_size_is_named():
    with pytest.raises(SpvmiaError, match=r"--size: expected one of small, medium, large, got 'smal'.*mean 'small'"):
        TICKETS.size_named("smal")


@both
def test_questions_are_not_in_the_corpus(commands, kind):
    _, _, layout = commands
    Demo(layout.root, kind, SIZE, print).run()
    corpus = layout.corpus.read_text(encoding="utf-8")
    questions = [json.loads(line) for line in (layout.tasks / f"{TASK}.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(questions) == SIZE.questions
    assert not any(json.dumps(q["story"], ensure_ascii=False)[1:-1] in corpus for q in questions)


def test_run_process_passes_lines_on_and_returns_them():
    said = []
    script = "import os; print('one'); print(os.environ['TOKENIZERS_PARALLELISM'])"
    assert run_process([sys.executable, "-c", script], "x", said.append) == "one\nfalse\n"
    assert said == ["one", "false"]


def test_run_process_names_the_step_that_failed():
    with pytest.raises(SpvmiaError, match=r"demo: spvmia finetune ended with status 3 .*continues"):
        run_process([sys.executable, "-c", "raise SystemExit(3)"], "spvmia finetune", print)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's parent-death signal")
def test_a_killed_demo_leaves_no_command_at_work(tmp_path):
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    run = f"run_process([sys.executable, '-c', {child!r}], 'x', print)"
    parent = f"import sys; from spvmia_plugin.demo.run import run_process; {run}"
    with subprocess.Popen([sys.executable, "-c", parent]) as demo:
        pid = int(wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text()))
        demo.kill()
    status = Path(f"/proc/{pid}/stat")
    assert wait_for(lambda: not status.exists() or status.read_text().split()[2] == "Z")


def wait_for(answer, seconds=300):
    deadline = time.monotonic() + seconds
    while not (found := answer()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_what_is_typed_is_the_same_command():
    command = lm_eval_command(Layout(Path("a folder")), TICKETS, SIZE)
    told = typed(command)
    assert shlex.split(told.replace("\\\n", " ")) == command
    assert len(told.splitlines()) > 5


def test_reading_gives_the_numbers_of_the_results_file(tmp_path):
    scores = dict(zip(TICKETS.attacks, (0.81, 0.62, 0.6, 0.58, 0.71, 0.7), strict=True))
    results = {f"{attack}_custom": {"auroc,none": value} for attack, value in scores.items()}
    (tmp_path / "results_2.json").write_text(json.dumps({"results": {**results, TASK: {"acc,none": 0.8}}}))
    text = " ".join(reading(TICKETS, newest_results(tmp_path)))
    assert "SPV-MIA reaches 0.81, the loss alone 0.62" in text
    assert "0.71 (lira_base_mia)" in text
    assert "80%" in text


def test_reading_of_chats_tells_what_the_reference_adds(tmp_path):
    given = {"loss_mia": 0.56, "ez_mia": 0.64, "wbc_mia": 0.63, "spv_wbc_mia": 0.8, "spv_ez_mia": 0.84}
    results = {f"{attack}_custom": {"auroc,none": given.get(attack, 0.5)} for attack in CHATS.attacks}
    (tmp_path / "results_2.json").write_text(json.dumps({"results": {**results, TASK: {"acc,none": 0.8}}}))
    text = " ".join(reading(CHATS, newest_results(tmp_path)))
    assert "loss alone reaches 0.56. Compared with the base model: ez 0.64, wbc 0.63" in text
    assert "that the target wrote: spv_ez 0.84, spv_wbc 0.80." in text
    assert "best of all attacks is spv_ez_mia with 0.84" in text


def test_newest_results_is_the_latest(tmp_path):
    for day in ("2026-01-02", "2026-01-10", "2026-01-09"):
        (tmp_path / f"results_{day}.json").write_text("{}")
    assert newest_results(tmp_path).name == "results_2026-01-10.json"
    with pytest.raises(SpvmiaError, match="expected results of lm_eval"):
        newest_results(tmp_path / "nothing")


@pytest.mark.slow
def test_the_real_demo(tmp_path):
    """Ten minutes: a leak that the simple attacks understate."""
    command = [sys.executable, "-m", "spvmia_plugin", "demo", "--output", str(tmp_path / "demo")]
    subprocess.run(command, check=True)
    results = json.loads(newest_results(tmp_path / "demo" / "results").read_text())["results"]
    auroc = {attack: results[f"{attack}_custom"]["auroc,none"] for attack in TICKETS.attacks}
    assert auroc["spv_mia"] > 0.7
    assert auroc["spv_mia"] > auroc["loss_mia"]
    assert auroc["loss_mia"] < 0.8
    assert TASK in results


@pytest.mark.slow
def test_the_demo_on_chats_by_its_real_commands_on_a_tiny_model(tmp_path, monkeypatch):
    """All but the model: what is trained, asked of the harness and reported."""
    model = tmp_path / "model"
    texts = [" ".join(chat.turns) for chat in make_chats(100, seed=5)]
    save_tiny(model, texts, context=1024)
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    monkeypatch.setattr(Layout, "model", model)
    monkeypatch.setattr(demo_run, "is_complete", lambda folder: True)
    size = Size(members=20, prompts=10, questions=8, epochs=1, self_prompts=10, minutes=(1, 1, 1))
    said = []
    places = Demo(tmp_path / "demo", CHATS, size, said.append).run()
    results = json.loads(newest_results(tmp_path / "demo" / "results").read_text())
    audit = results["configs"]["spv_wbc_mia_custom"]["metadata"]["mia_audit"]
    assert audit["scored"]["format"] == "messages"
    assert audit["scored"]["loss_on"] == "completion"
    assert audit["self_prompts"]["texts"] == 10
    assert set(results["results"]) >= {TASK, *(f"{attack}_custom" for attack in CHATS.attacks)}
    assert places["report"].is_file()
    assert any("The loss alone reaches" in line for line in said)


@pytest.mark.slow
def test_the_real_demo_on_chats(tmp_path):
    """Ten minutes: answers that the target wrote make a reference that tells members."""
    command = [sys.executable, "-m", "spvmia_plugin", "demo", "--chat", "--output", str(tmp_path / "demo")]
    subprocess.run(command, check=True)
    results = json.loads(newest_results(tmp_path / "demo" / "results").read_text())["results"]
    auroc = {attack: results[f"{attack}_custom"]["auroc,none"] for attack in CHATS.attacks}
    assert max(auroc["spv_wbc_mia"], auroc["spv_ez_mia"]) > auroc["loss_mia"] + 0.1
    assert TASK in results
