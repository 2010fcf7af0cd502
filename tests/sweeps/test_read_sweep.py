"""What a sweep's command line asks for is composed, checked and named before its first job starts."""

from pathlib import Path

import pytest
from hydra.errors import HydraException

from imgcls.config import Config, compose_run
from imgcls.config.command_line import plain_words
from imgcls.config.compose import register
from imgcls.config.messages import one_line
from imgcls.config.sweep import Sweep, direction, read_sweep


def read(*words: str) -> Sweep:
    register()
    return read_sweep(plain_words(["-m", *words], Config))


def test_every_combination_is_a_job_with_the_words_directory_and_config_of_its_own_run() -> None:
    sweep = read("model=lenet5,alexnet", "seed=range(1,3)", "epochs=3", "overwrite=true")
    assert [job.swept for job in sweep.jobs] == [
        "model=lenet5 seed=1",
        "model=lenet5 seed=2",
        "model=alexnet seed=1",
        "model=alexnet seed=2",
    ]
    job = sweep.jobs[1]
    assert (job.number, job.config.seed, job.config.epochs) == (2, 2, 3)
    alone, path = compose_run(["model=lenet5", "seed=2", "epochs=3", "overwrite=true"])
    assert (job.config, job.path) == (alone, path)
    again, same = compose_run(job.words)
    assert (again, same) == (alone, path)


def test_a_glob_chooses_among_the_names_of_a_group() -> None:
    assert [job.swept for job in read("model=glob(vgg1?)").jobs] == [f"model=vgg{depth}" for depth in (11, 13, 16, 19)]


def test_crops_are_swept_by_a_word_with_the_settings_beside_it() -> None:
    words = ["augment.eval_crop=center,pad", "augment.crop.area=[0.2,1]", "augment.crop=random_resized"]
    center, pad = read(*words, "model=resnet18").jobs
    crop = {"_target_": "imgcls.data.augment.RandomResizedCrop", "area": [0.2, 1]}
    assert center.config.augment.crop == pad.config.augment.crop == crop
    assert pad.config.augment.eval_crop == {"_target_": "imgcls.data.augment.Pad"}
    assert center.path.name.startswith("augment.crop.area-_0.2_1_+augment.crop-random_resized+augment.eval_crop-center")


@pytest.mark.parametrize(
    "words",
    [
        ["model=vgg16,vgg19", "model.dropout=0.2"],
        ["model.dropout=0.2", "model=glob(vgg1?)"],
        ["augment.crop=pad,pad_random", "augment.crop.padding=3"],
        ["schedule=cosine,googlenet", "optimizer=adamw", "optimizer.betas=[0.9,0.95]"],
    ],
)
def test_a_setting_of_what_is_swept_is_one_of_every_job(words: list[str]) -> None:
    assert len(read(*words).jobs) >= 2
    space = read("hydra/sweeper=optuna", "model=choice(vgg16,vgg19)", "model.dropout=0.2").space
    assert [each.key for each in space] == ["model"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["name=x", "seed=1,2"], ["seed=1", "seed=2", "would share", "x", "name='x-${seed}'"]),
        (["name=x", "seed=1,2", "overwrite=true"], ["would share", "name='x-${seed}'"]),
        (["hydra.run.dir=here", "seed=1,2"], ["would share", "here", "hydra.run.dir"]),
        (["data.num_threads=1,2"], ["would share", "name='${data.num_threads}'"]),
        (["seed=1,1"], ["jobs 1 and 2", "seed=1", "once"]),
        (["model=glob(foo*)"], ["model=glob(foo*)", "no jobs"]),
        (["seed=interval(1,3)"], ["seed=interval(1,3)", "hydra/sweeper=optuna"]),
        (["seed=1,-3"], ["seed=-3", "between 0 and"]),
        (["model=lenet5,vgg61"], ["model=vgg61", "did you mean vgg1"]),
        (["sweep.jobs=0", "seed=1,2"], ["sweep.jobs=0", "at least 1"]),
        (["hydra/launcher=joblip", "seed=1,2"], ["hydra/launcher=joblip", "did you mean joblib?"]),
        (["hydra/launcher=ray", "seed=1,2"], ["hydra/launcher=ray", "pip install hydra-ray-launcher"]),
        (["hydra/sweeper=optuna", "seed=3"], ["nothing to search", "interval"]),
        (
            ["hydra/sweeper=optuna", "optimizer.lr=interval(1,0.1)"],
            ["optimizer.lr=interval(1,0.1)", "smaller one first"],
        ),
        (["hydra/sweeper=optuna", "name=x", "optimizer.lr=interval(0.1,1)"], ["would share", "${optimizer.lr}"]),
        (
            ["hydra/sweeper=optuna", "hydra.sweeper.sampler=rendom", "seed=1,2"],
            ["sampler=rendom", "did you mean random?"],
        ),
    ],
)
def test_a_mistake_in_any_job_is_one_line_before_the_first_one_starts(
    words: list[str], said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, HydraException)) as error:
        read("model=lenet5", *words) if not any(word.startswith("model=") for word in words) else read(*words)
    line = one_line(error.value)
    assert "\n" not in line
    for word in said:
        assert word in line
    assert not list(tmp_path.iterdir())


def test_names_by_interpolation_give_each_job_its_directory() -> None:
    sweep = read("name=x-${seed}-${hydra:job.num}", "seed=5,6")
    assert [job.path.name for job in sweep.jobs] == ["x-5-0", "x-6-1"]
    assert compose_run(sweep.jobs[1].words)[1] == sweep.jobs[1].path


def test_the_same_sweep_has_the_same_name_whatever_changes_no_result() -> None:
    name = read("model=lenet5", "seed=1,2").name
    assert read("model=lenet5", "seed=1,2", "sweep.jobs=2", "device=cpu").name == name
    assert read("model=lenet5", "seed=1,3").name != name
    assert read("model=lenet5", "seed=1,2", "sweep.name=mine").name == "mine"
    assert "/" not in name
    assert "," not in name


def test_a_plus_before_a_group_says_no_more_than_the_group() -> None:
    assert plain_words(["+experiment=smoke", "+model=vgg16"], Config) == ["experiment=smoke", "model=vgg16"]
    assert plain_words(["+optimizer.foreach=true"], Config) == ["+optimizer.foreach=true"]


def test_a_search_space_is_read_from_the_words_and_the_experiment() -> None:
    sweep = read("experiment=search", "model=lenet5", "label_smoothing=0.1", "optimizer.lr=tag(log,interval(0.01,1))")
    space = {dimension.key: dimension for dimension in sweep.space}
    assert (space["optimizer.lr"].low, space["optimizer.lr"].high, space["optimizer.lr"].log) == (0.01, 1.0, True)
    assert space["augment.batch.mix.mixup"].choices == ("0.0", "0.2")
    assert "label_smoothing" not in space
    assert sweep.search is not None
    assert sweep.search.pruner == "median"
    job = sweep.trial(3, {"optimizer.lr": "0.25"})
    assert job.config.optimizer["lr"] == 0.25
    assert job.config.label_smoothing == 0.1


def test_ranges_of_a_search_end_where_the_grid_of_the_same_words_ends() -> None:
    (whole, part) = read(
        "hydra/sweeper=optuna", "model=lenet5", "seed=range(1,10,3)", "label_smoothing=range(0,0.3,0.1)"
    ).space
    assert (whole.low, whole.high, whole.step, whole.whole) == (1, 7, 3, True)
    assert (part.low, round(part.high, 6), part.whole) == (0, 0.2, False)
    assert part.ends == ("0.0", "0.2")


def test_a_search_goes_in_the_direction_of_the_metric_that_chooses_the_best_epoch() -> None:
    sweep = read("hydra/sweeper=optuna", "model=lenet5", "seed=1,2", "checkpoint.best_metric=loss")
    config = sweep.probe()[0].config
    assert sweep.search is not None
    assert direction(sweep.search, config) == "minimize"
    sweep.search.direction = "maximize"
    with pytest.raises(ValueError, match=r"direction=maximize.*val/loss.*minimized"):
        direction(sweep.search, config)


def test_the_config_of_hydra_optuna_sweeper_takes_no_part_where_it_is_installed() -> None:
    from hydra.core.config_store import ConfigStore

    node = {"_target_": "hydra_plugins.x.OptunaSweeper", "defaults": [{"sampler": "tpe"}], "n_jobs": 2}
    ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=node)
    sweep = read("hydra/sweeper=optuna", "model=lenet5", "optimizer.lr=interval(0.1,1)")
    assert sweep.search is not None
    assert sweep.search.n_trials == 20


def test_a_launcher_that_cannot_start_jobs_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    from imgcls.config import launch

    monkeypatch.setenv("PATH", str(tmp_path))  # no srun
    with pytest.raises(ValueError, match=r'^SlurmLauncher could not run the jobs: .* detect "srun"'):
        launch(str, [1], words=["hydra/launcher=submitit_slurm"], folder=tmp_path)


def test_a_launcher_from_a_config_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /hydra/launcher: joblib\n"
    (tmp_path / "experiment/evil.yaml").write_text(text)
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    with pytest.raises(ValueError, match="not allowed"):
        read("--config-dir", str(tmp_path), "experiment=evil", "seed=1,2")


def test_a_csv_lists_the_jobs_and_lists_on_the_command_line_multiply_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # As a table program saves it: a byte-order mark, semicolons, empty cells and lines.
    text = "\ufeffmodel;optimizer.lr;freeze\n# the first try\nlenet5;0.1;\n;;\nalexnet;;[conv1, conv2]\n"
    Path("my jobs.csv").write_text(text, encoding="utf-8")
    sweep = read("sweep.file=my jobs.csv", "weights=torchvision", "seed=1,2")
    assert [job.swept for job in sweep.jobs] == [
        "model=lenet5 optimizer.lr=0.1 seed=1",
        "model=lenet5 optimizer.lr=0.1 seed=2",
        "model=alexnet freeze=[conv1,conv2] seed=1",
        "model=alexnet freeze=[conv1,conv2] seed=2",
    ]
    assert (sweep.jobs[3].config.seed, sweep.jobs[3].config.freeze) == (2, ["conv1", "conv2"])
    assert compose_run(sweep.jobs[0].words) == (sweep.jobs[0].config, sweep.jobs[0].path)
    assert sweep.name == "my_jobs+weights-torchvision+seed-1_2-" + sweep.name.rpartition("-")[2]
    (tmp_path / "plain.csv").write_text("model,seed\nlenet5,1\n")
    assert read("sweep.file=plain.csv").name == "plain"


@pytest.mark.parametrize(
    "text, said",
    [
        (None, ["sweep.file=jobs.csv", "No such file"]),
        ("model,seed\n", ["sweep.file=jobs.csv", "lists no jobs"]),
        ("seed,\n1,2\n", ["column 2 has no key"]),
        ("seed,seed\n1,2\n", ["seed has two columns"]),
        ("model,seed\nlenet5,1\n", ["model is a column and on the command line"]),
        ("seed=1\n2\n", ["seed=1 in the first line is no key"]),
        ("sweep.jobs\n2\n", ["sweep.jobs is of the whole sweep"]),
        ("seed,epochs\n1,2\n3\n", ["jobs.csv, line 3 has 1 cells", "2 keys"]),
        ('seed,epochs\n1,2\n"3,4",5\n', ["jobs.csv, line 3", "seed=3,4", "several values"]),
        ("seed,epocs\n1,2\n", ["jobs.csv, line 2", "epocs", "did you mean epochs?"]),
        ("seed,recipe\n1,vgg\n1,vgx\n", ["jobs.csv, line 3", "recipe=vgx", "vgg"]),
        ("seed\n-1\n", ["jobs.csv, line 2", "seed=-1"]),
        ("seed\n1\n1\n", ["jobs 1 and 2 are the same run"]),
        ("seed\n[1\n", ["jobs.csv, line 2"]),
    ],
)
def test_a_mistake_in_a_csv_of_jobs_names_the_line(
    text: str | None, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("jobs.csv").write_text(text)
    with pytest.raises((ValueError, HydraException)) as error:
        read("sweep.file=jobs.csv", "model=lenet5")
    line = one_line(error.value)
    assert "\n" not in line
    for word in said:
        assert word in line


def test_a_search_takes_no_list_of_jobs(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text("seed\n1\n")
    with pytest.raises(ValueError, match="which a search chooses"):
        read(f"sweep.file={tmp_path}/jobs.csv", "hydra/sweeper=optuna", "optimizer.lr=interval(0.1,1)")
