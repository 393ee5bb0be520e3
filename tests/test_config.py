"""Every shipped configuration composes, passes the checks and builds its objects."""

import ast
from pathlib import Path

import pytest
from conftest import TOY
from omegaconf import OmegaConf

import speechexp
from speechexp.config import check, compose_config, parse, variants
from speechexp.errors import UserError
from speechexp.labels import SoundClass
from speechexp.recorded import refuse_changes, to_record, with_recorded
from speechexp.signature import parameters_of

CONF = Path(speechexp.__file__).parent.parent / "conf"


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def complete(group: str, option: str, folder: Path) -> list[str]:
    """Return the overrides that choose an option, and give what it requires."""
    required = {
        "audio_folder": [f"data.path={folder}"],
        **{key: ["task=audio_tagging"] for key in ("sound_mini", "audioset", "ast_tiny", "ast_audioset")},
        **{
            key: ["task=diarization_es"]
            for key in (
                "conversation_mini",
                "callhome_es",
                "pyannote_local",
                "pyannote_3_1",
                "pyannote_community_1",
            )
        },
    }
    return [f"{group}={option}", *required.get(option, [])]


EVERY = [
    (group, option)
    for group in ("task", "model", "data", "trainer", "experiment")
    for option in options(group)
]


@pytest.mark.parametrize(("group", "option"), EVERY, ids="=".join)
def test_every_option_composes_and_passes_the_checks(group, option, tmp_path):
    check(compose_config(complete(group, option, tmp_path)))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("checkpoint")
    sizes = {each.split("=")[0].removeprefix("model.network."): each.split("=")[1] for each in TOY}
    settings = {name: OmegaConf.create(f"x: {value}").x for name, value in sizes.items()}
    settings = {name: list(value) if OmegaConf.is_list(value) else value for name, value in settings.items()}
    config = Wav2Vec2Config(conv_kernel=[20, 8, 8], conv_stride=[10, 8, 8], do_stable_layer_norm=True,
                            feat_extract_norm="layer", vocab_size=7, **settings)  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("group", "option"), EVERY, ids="=".join)
def test_every_option_builds_its_objects(
    group, option, tmp_path, tiny_checkpoint, tiny_audioset_checkpoint, tiny_pipeline_folder
):
    from hydra.utils import instantiate

    cfg = compose_config(complete(group, option, tmp_path))
    task = instantiate(cfg.task, _convert_="all")
    if task.kind == "asr":
        task.learn_labels(["hola niño"])
    if task.kind == "diarization":
        cfg.model.pretrained = str(tiny_pipeline_folder)
    elif cfg.model.pretrained is not None:  # the architecture of a hub model, without its gigabytes
        cfg.model.pretrained = str(tiny_checkpoint if task.kind == "asr" else tiny_audioset_checkpoint)
        task.mode = "multi_label"
    elif task.kind == "tagging":
        task.adopt([SoundClass("Siren"), SoundClass("Speech")], "a test", single=False)
    data = instantiate(cfg.data, task=task, seed=1, _convert_="all")
    module = instantiate(cfg.model, task=task, _convert_="all")
    assert sum(weight.numel() for weight in module.network.parameters()) > 1000
    assert data.describe()
    optimizer = module._make_optimizer(module)
    assert module._make_schedule(optimizer, 100).get_last_lr()[0] > 0
    beside = {"run_folder": tmp_path, "seed": 1}
    if option in ("cuda", "rocm"):
        with pytest.raises(Exception, match=f"trainer={option} needs"):
            instantiate(cfg.trainer, **beside)
    else:
        assert instantiate(cfg.trainer, **beside).max_epochs == cfg.trainer.max_epochs


def test_the_command_line_beats_the_experiment_which_beats_the_task():
    assert compose_config([]).data.batch_seconds == compose_config(["task=asr_es"]).data.batch_seconds
    experiment = compose_config(["task=asr_es", "experiment=fleurs_xlsr53"])
    assert experiment.data.name == "google/fleurs"
    assert experiment.model.pretrained == "facebook/wav2vec2-large-xlsr-53"
    assert compose_config(["experiment=fleurs_xlsr53", "data.batch_seconds=9"]).data.batch_seconds == 9


def test_an_experiment_brings_its_task_and_data_of_another_task_are_refused():
    check(compose_config(["experiment=audioset_ast"]))
    for overrides in (
        ["task=audio_tagging", "experiment=fleurs_xlsr53"],
        ["data=audioset"],
        ["model=ast_tiny"],
    ):
        with pytest.raises(
            UserError, match=r"(data|model)=[\w ]+ is not for task=\w+\. For it there is (data|model)="
        ):
            check(compose_config(overrides))


def test_the_reference_recipe_is_the_experiment():
    model = compose_config(["experiment=fleurs_xlsr53"]).model
    assert model.freeze_feature_encoder
    assert not model.gradient_checkpointing  # the recipe's memory, not its figures: twice the forward passes
    assert (model.optimizer.lr, model.schedule.warmup) == (3e-4, 50)
    assert model.schedule._target_.endswith("linear")
    assert dict(model.network) == {"attention_dropout": 0.1, "hidden_dropout": 0.1, "feat_proj_dropout": 0.0,
                                   "mask_time_prob": 0.05, "layerdrop": 0.1}  # fmt: skip


def test_another_language_is_one_override_and_asks_for_a_normaliser_that_fits():
    with pytest.raises(UserError, match=r"task\.normaliser=plain"):
        check(compose_config(["data=fleurs_es", "data.config=ca_es"]))
    check(compose_config(["data=fleurs_es", "data.config=ca_es", "task.normaliser=plain"]))


def test_a_sweep_is_checked_value_by_value():
    found = list(variants(["model.optimizer.lr=1e-3,3e-3", "seed=range(1,4)", "trainer.max_epochs=2"]))
    assert ["model.optimizer.lr=0.001", "seed=1", "trainer.max_epochs=2"] in found
    assert ["model.optimizer.lr=0.003", "seed=1", "trainer.max_epochs=2"] in found
    assert ["model.optimizer.lr=0.001", "seed=3", "trainer.max_epochs=2"] in found


def test_values_of_the_wrong_type_are_told_from_the_signature():
    assert parameters_of("speechexp.corpora.fleurs.Fleurs").keys() >= {"revision", "batch_seconds", "task"}
    for override, words in [
        ("data.batch_seconds=big", "a number or one of auto"),
        ("data.num_workers=2.5", "a whole number or one of auto"),
        ("model.gradient_checkpointing=maybe", "true or false"),
        ("model.optimizer.betas=0.9", "a list"),
        ("trainer.max_epochs=null", "a whole number"),
    ]:
        with pytest.raises(UserError, match=words):
            check(compose_config([override]))


def test_recorded_settings_come_back_and_what_is_typed_wins(tmp_path):
    overrides = [
        "task=asr_es",
        "data=fleurs_es",
        "data.config=es_419",
        "model.optimizer.lr=1e-4",
        "stage=fit",
    ]
    assert to_record(overrides) == overrides[:-1]
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text(
        '{"state": "interrupted", "stage": "fit", "overrides": ["data=fleurs_es", "data.config=es_419", "seed=3"]}'
    )
    (run / "checkpoints" / "last.ckpt").touch()
    again = with_recorded(["stage=test", f"ckpt={run}/checkpoints/last.ckpt", "seed=4"])
    assert {each.key_or_group: each.value() for each in parse(again)}["seed"] == 4
    assert "data.config=es_419" in again
    assert "data.config=es_419" not in with_recorded(
        [f"ckpt={run}/checkpoints/last.ckpt", "data=spanish_mini"]
    )
    assert f"hydra.run.dir='{run}'" in with_recorded([f"resume={run}"])


def test_a_run_may_go_on_compiled_or_with_less_memory_but_with_nothing_else_changed(tmp_path):
    def settings(*overrides):
        composed = compose_config(overrides)
        return OmegaConf.masked_copy(composed, [group for group in composed if group != "hydra"])

    OmegaConf.save(settings(), tmp_path / "config.yaml", resolve=True)
    refuse_changes(settings("model.compile=true", "model.gradient_checkpointing=true"), tmp_path)
    with pytest.raises(UserError, match=r"model\.optimizer\.lr"):
        refuse_changes(settings("model.optimizer.lr=1"), tmp_path)
    with pytest.raises(UserError, match=r"trainer\.weight_averaging"):
        refuse_changes(settings("trainer.weight_averaging=0.99"), tmp_path)


# ------------------------------------------------------------------------------------ the shape of the code


# What a module may import of its own package; a module not named here may import anything below it.
LEAVES = {"errors", "paths", "manifest", "audio", "resampling", "batch", "batches", "text", "labels", "turns",
          "bootstrap", "signature"}  # fmt: skip


def imported(module: Path) -> set[str]:
    """Return which of the package's own modules a module imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("speechexp"):
            parts = node.module.split(".")[1:]
            found.update({".".join(parts)} if parts else set())
    return found


def test_imports_go_one_way():
    package = Path(speechexp.__file__).parent
    graph = {
        ".".join(file.relative_to(package).with_suffix("").parts): imported(file)
        for file in package.rglob("*.py")
        if file.name not in ("__init__.py", "__main__.py")
    }
    for leaf in LEAVES - {"audio"}:
        assert graph[leaf] <= {"errors"}, leaf
    assert graph["audio"] <= {"errors", "resampling"}
    assert graph["task"] <= {"errors", "paths"}
    assert graph["recognition"] <= {"bootstrap", "errors", "manifest", "metrics", "task", "text"}
    assert not graph["data"] & {"asr", "run", "trainer"}
    for module in ("module", "asr", "ast_tagger", "diarizer"):
        assert not graph[module] & {"data", "run", "trainer"}, module

    def reached(name: str, path: tuple[str, ...] = ()) -> None:
        assert name not in path, f"a circle: {' → '.join((*path, name))}"
        for other in graph.get(name, ()):
            reached(other, (*path, name))

    for name in graph:
        reached(name)


def test_only_the_entry_and_the_run_know_hydra_and_omegaconf():
    package = Path(speechexp.__file__).parent
    knowing = {file.name for file in package.rglob("*.py") if any(
        line.strip().startswith(("import hydra", "from hydra", "from omegaconf", "import omegaconf"))
        for line in file.read_text().splitlines()
    )}  # fmt: skip
    assert knowing <= {"__main__.py", "config.py", "job.py", "run.py", "recorded.py"}
