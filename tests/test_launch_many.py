"""The launch scripts for several machines, against stand-ins for what commands them."""

import json
import math
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from clones import Clone

ROOT = Path(__file__).resolve().parent.parent

# Each command notes its arguments, then does the little that the script waits for.
NOTING = '#!/usr/bin/env bash\necho "${0##*/} $*" >>"$NOTES"\n'

# A step that runs (with LASTING) until it is told to end, and then takes a moment to save.
SRUN = (
    NOTING
    + """
[[ $* == *skinjax.main* ]] || exit 0
if [[ -n ${LASTING:-} ]]; then
  trap 'sleep 0.5; echo saved >>"$NOTES"; exit 75' TERM
  echo $$ >"$STEP"
  for ((i = 0; i < 300; i++)); do sleep 0.1; done
fi
exit "${STATUS:-0}"
"""
)
SCANCEL = NOTING + 'kill -TERM "$(<"$STEP")"\n'
SQUEUE = '#!/bin/sh\necho "${STATE:-RUNNING}"\n'

# The states of the slice and of the training are the lines of two files, told one after the other.
GCLOUD = (
    NOTING
    + """
next() {
  state=$(head -n 1 "$1")
  sed -i 1d "$1"
  [[ -n $state ]] && echo "$state"
}
case "$*" in
  *" describe "*) next "$SLICE" ;;
  *"worker.sh status"*) next "$TRAINING" ;;
  *" scp "*) [[ -f $5 ]] && tar -tzf "$5" >>"$NOTES.files" ;;
  *"worker.sh follow"*) exit "${FOLLOW_STATUS:-0}" ;;
esac
"""
)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path)
    for name, text in {
        "srun": SRUN,
        "scancel": SCANCEL,
        "squeue": SQUEUE,
        "scontrol": NOTING,
        "gcloud": GCLOUD,
        "rsync": NOTING,
    }.items():
        clone.add_command(name, text)
    return clone


def noted(clone: Clone, *names: str) -> list[str]:
    """What the stand-ins of these names were told."""
    return [note for note in clone.take_notes() if note.split()[0] in names]


# Data


def test_data_is_copied_from_a_bucket_and_from_a_folder(clone, tmp_path):
    target = tmp_path / "here and now"
    assert clone.run("launch/copy_data.sh", "gs://b/data/", target).returncode == 0
    assert target.is_dir()
    assert clone.run("launch/copy_data.sh", "/shared/data", target).returncode == 0
    assert clone.take_notes() == [
        f"gcloud storage rsync gs://b/data {target} --recursive",
        f"rsync --archive /shared/data/ {target}",
    ]
    told = clone.run("launch/copy_data.sh", "--dry-run", "gs://b/data", tmp_path / "not made")
    assert told.stdout.splitlines() == [
        f"mkdir -p -- '{tmp_path}/not made'",
        f"gcloud storage rsync gs://b/data '{tmp_path}/not made' --recursive",
    ]
    assert not (tmp_path / "not made").exists()
    assert clone.take_notes() == []
    assert clone.run("launch/copy_data.sh", "gs://b/data").returncode == 2


# SLURM


def job(clone: Clone, tmp_path: Path, **variables: str) -> dict[str, str]:
    """The environment of a job; SLURM runs a copy of the script that lies elsewhere."""
    (tmp_path / "spool").mkdir(exist_ok=True)
    shutil.copy(clone.root / "launch" / "slurm.sbatch", tmp_path / "spool" / "slurm_script")
    return clone.environment(
        SLURM_JOB_ID="7",
        SLURM_JOB_NUM_NODES="2",
        SLURM_CPUS_PER_TASK="4",
        STEP=str(tmp_path / "step"),
        **variables,
    )


def run_job(
    clone: Clone, tmp_path: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [tmp_path / "spool" / "slurm_script", *arguments],
        cwd=clone.root,
        env=job(clone, tmp_path, **variables),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_job_trains_on_all_nodes(clone, tmp_path):
    done = run_job(clone, tmp_path, "--config=c.py", "--workdir=my run", SKINJAX_DATA="/d")
    assert done.returncode == 0, done.stderr
    folder = "/tmp/skinjax-data"
    assert clone.take_notes() == [
        "pip .",
        "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 "
        f"{clone.root}/launch/copy_data.sh /d {folder}",
        f"srun --kill-on-bad-exit=0 --wait=300 --cpus-per-task=4 {clone.root}/.venv/bin/python -m "
        "skinjax.main --distributed --config=c.py --workdir=my run "
        f"--config.data.cache_dir={folder}",
    ]


@pytest.mark.parametrize(
    ("status", "restarts", "state", "comes_back"),
    [
        (0, 0, "RUNNING", False),
        (2, 0, "RUNNING", False),  # a mistake of the user's
        (130, 0, "RUNNING", False),
        (75, 999, "RUNNING", True),
        (75, 0, "COMPLETING", False),  # cancelled, or preempted and put back by the scheduler
        (137, 0, "RUNNING", True),
        (137, 20, "RUNNING", False),
    ],
)
def test_a_job_comes_back_where_it_can_go_on(clone, tmp_path, status, restarts, state, comes_back):
    done = run_job(
        clone, tmp_path, STATUS=str(status), SLURM_RESTART_COUNT=str(restarts), STATE=state
    )
    assert done.returncode == status
    assert noted(clone, "scontrol") == (["scontrol requeue 7"] if comes_back else [])


@pytest.mark.parametrize("told_by", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_told_to_end_saves_and_comes_back(clone, tmp_path, told_by):
    environment = job(clone, tmp_path, LASTING="1")
    script = tmp_path / "spool" / "slurm_script"
    running = subprocess.Popen([script], cwd=clone.root, env=environment)
    while not (tmp_path / "step").exists():
        assert running.poll() is None
        time.sleep(0.02)
    # Both the time limit and the scheduler may tell it.
    for _ in range(2):
        running.send_signal(told_by)
        time.sleep(0.1)
    assert running.wait(timeout=30) == 75
    notes = clone.take_notes()
    assert "scancel --signal=TERM 7" in notes
    assert notes[-2:] == ["saved", "scontrol requeue 7"]


def test_a_dry_run_of_a_job_needs_no_slurm(clone):
    told = clone.run("launch/slurm.sbatch", "--dry-run", "--workdir=r", SKINJAX_DATA="gs://b/d")
    assert told.returncode == 0, told.stderr
    words = told.stdout
    assert f"'{clone.root}/launch/copy_data.sh' gs://b/d /tmp/skinjax-data" in words
    assert "-m skinjax.main --distributed --workdir=r --config.data.cache_dir=/tmp/" in words
    assert "\nscontrol requeue JOB\n" in words
    assert clone.take_notes() == []


def test_a_job_outside_of_a_clone_says_so(clone, tmp_path):
    environment = job(clone, tmp_path)
    script = tmp_path / "spool" / "slurm_script"
    done = subprocess.run([script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{tmp_path} is no clone" in done.stderr


def test_a_jobs_options_stand_where_slurm_reads_them():
    lines = (ROOT / "launch" / "slurm.sbatch").read_text().splitlines()
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    # It stops reading them at the first command.
    assert lines[1 : len(options) + 1] == [f"#SBATCH {option}" for option in options]
    assert {"--requeue", "--signal=B:USR1@300", "--open-mode=append"} <= {*options}


# One machine of several


def worker(clone: Clone, *arguments: str, **variables: str) -> str:
    done = clone.run("launch/worker.sh", *arguments, HOME=str(clone.bin.parent), **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_for(clone: Clone, status: str) -> None:
    for _ in range(300):
        if worker(clone, "status") == status:
            return
        time.sleep(0.05)
    pytest.fail(f"the training is {worker(clone, 'status')}, not {status}")


def test_a_worker_trains_after_the_connection_has_ended(clone):
    worker(clone, "install")
    assert worker(clone, "status") == "none"
    worker(clone, "start", "--distributed", "--workdir=my run")
    wait_for(clone, "0")
    assert "words of skinjax.main" in worker(clone, "follow")
    assert clone.take_notes()[-1] == (
        f"skinjax.main in {clone.root}: <--distributed> <--workdir=my run>"
    )
    worker(clone, "start", FAILING="skinjax.main ", STATUS="2")
    wait_for(clone, "2")


def test_a_worker_told_to_stop_lets_the_training_save(clone):
    worker(clone, "install")
    worker(clone, "start", "first", LASTING="1")
    assert worker(clone, "status") == "running"
    # Starting again ends what runs.
    worker(clone, "start", "second", LASTING="1")
    assert worker(clone, "status") == "running"
    worker(clone, "stop")
    assert worker(clone, "status") == "75"
    saved = [note for note in clone.take_notes() if note == "skinjax.main saved"]
    assert len(saved) == 2
    worker(clone, "stop")


def test_a_worker_with_an_old_python_gets_a_new_one(clone):
    stand_in = clone.bin / "python3.12"
    new = stand_in.rename(clone.bin.parent / "new python")
    fetching = f'mkdir -p "$HOME/.local/bin" && cp "{new}" "$HOME/.local/bin/python3.12"\n'
    clone.add_command("uv", NOTING + fetching)
    clone.add_command("python3", '#!/bin/bash\n[[ $1 == -m ]] && echo "python3 $*" >>"$NOTES"\n')
    for name in ("python3.11", "python3.13", "python3.14", "python"):
        clone.add_command(name, "#!/bin/sh\nexit 1\n")
    worker(clone, "install")
    assert clone.take_notes() == [
        "python3 -m pip install --user --quiet uv",
        "uv python install 3.12",
        "pip .",
    ]


def test_a_dry_run_of_a_worker_tells_what_it_would_start(clone):
    clone.run("launch/local.sh", "x")
    told = worker(clone, "--dry-run", "start", "--workdir=my run").splitlines()
    assert told[-1] == f"'{clone.root}/.venv/bin/python' -m skinjax.main '--workdir=my run'"
    assert not (clone.root / "runs").exists()
    assert clone.run("launch/worker.sh", "dance").returncode == 2


# Cloud TPU


TRAIN = ["--name=n", "--zone=z", "--type=v5litepod-16", "--spot", "--data=gs://b/data"]
RUN = ["--", "--config=c.py", "--workdir=gs://b/my run"]


def tpu(
    clone: Clone, command: str, *arguments: str, slice: str = "", training: str = "", **variables
) -> subprocess.CompletedProcess:
    """Calls tpu_vm.sh; `slice` and `training` are the states that gcloud will tell, one a word."""
    states = {"SLICE": slice, "TRAINING": training}
    for name, words in states.items():
        path = clone.bin.parent / name
        path.write_text("".join(f"{word.strip('-')}\n" for word in words.split()))
        states[name] = str(path)
    variables |= {"SKINJAX_PAUSE": "0", "TMPDIR": str(clone.bin.parent)}
    return clone.run("launch/tpu_vm.sh", command, *arguments, **states, **variables)


@pytest.fixture
def tracked(clone):
    """The clone as git's, which tells what is to be installed."""
    subprocess.run(["git", "init", "--quiet"], cwd=clone.root, check=True)
    subprocess.run(["git", "add", "launch", "pyproject.toml"], cwd=clone.root, check=True)
    return clone


def brief(clone: Clone) -> list[str]:
    """The commands that gcloud was given, each in a word or two."""
    commands = []
    for note in noted(clone, "gcloud"):
        verb = note.split()[4]
        script = re.search(r"launch/(worker.sh \w+|copy_data.sh)", note)
        commands.append(f"{verb} {script[1]}" if script else verb)
    return commands


WHOLE = [
    "ssh worker.sh status",
    "scp",
    "ssh worker.sh install",
    "ssh copy_data.sh",
    "ssh worker.sh start",
    "ssh worker.sh follow",
    "ssh worker.sh status",
]


def test_a_dry_run_tells_what_a_run_does(tracked):
    told = tpu(tracked, "train", "--dry-run", *TRAIN, *RUN)
    assert told.returncode == 0, told.stderr
    assert tracked.take_notes() == []
    done = tpu(tracked, "train", *TRAIN, *RUN, slice="- ACTIVE", training="- 0")
    assert done.returncode == 0, done.stderr
    ran = noted(tracked, "gcloud")
    lines = [line for line in told.stdout.splitlines() if line.startswith("gcloud ")]
    assert [" ".join(split(line)) for line in lines] == ran
    assert ran[1] == (
        "gcloud compute tpus queued-resources create n --zone=z --node-id=n "
        "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot"
    )
    assert ran[-4].endswith(
        "--worker=all --command=skinjax/launch/worker.sh start --distributed --config=c.py "
        "'--workdir=gs://b/my run' --config.data.cache_dir=~/skinjax-data"
    )
    files = (tracked.notes.parent / "notes.files").read_text().splitlines()
    assert "launch/worker.sh" in files and "constraints.txt" not in files


def split(line: str) -> list[str]:
    """The words of a line as a shell reads them."""
    echo = ["bash", "-c", f"printf '%s\\0' {line}"]
    return subprocess.run(echo, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def test_a_preempted_slice_is_asked_for_again(tracked):
    done = tpu(
        tracked,
        "train",
        *TRAIN,
        *RUN,
        slice="- WAITING_FOR_RESOURCES PROVISIONING ACTIVE SUSPENDED WAITING_FOR_RESOURCES ACTIVE",
        training="- - - 0",
        FOLLOW_STATUS="255",
    )
    assert done.returncode == 0, done.stderr
    waiting = ["describe"]
    assert brief(tracked) == [
        *("describe", "create", *(waiting * 3), *WHOLE),
        *("describe", "delete", "create", *(waiting * 2), *WHOLE),
        "delete",
    ]
    assert "n is SUSPENDED; it is deleted and asked for again" in done.stderr


def test_a_training_that_saved_goes_on_where_it_is(tracked):
    done = tpu(tracked, "train", *TRAIN, *RUN, slice="ACTIVE ACTIVE", training="75 75 75 0")
    assert done.returncode == 0, done.stderr
    again = [task for task in WHOLE if task not in ("scp", "ssh worker.sh install")]
    assert brief(tracked) == ["describe", *again, "describe", *again, "delete"]


def test_a_training_that_runs_is_only_followed(tracked):
    done = tpu(tracked, "train", *TRAIN, *RUN, slice="ACTIVE", training="running 0")
    assert done.returncode == 0, done.stderr
    look = "ssh worker.sh status"
    assert brief(tracked) == ["describe", look, "ssh worker.sh follow", look, "delete"]


@pytest.mark.parametrize("status", [1, 2])
def test_what_was_mended_is_installed_once(tracked, status):
    slice, training = "ACTIVE " * 3, f"{status} 1 1 0"
    done = tpu(tracked, "train", *TRAIN, *RUN, slice=slice, training=training)
    assert done.returncode == 0, done.stderr
    again = [task for task in WHOLE if task not in ("scp", "ssh worker.sh install")]
    assert brief(tracked) == ["describe", *WHOLE, "describe", *again, "delete"]


def test_a_mistake_leaves_the_slice_and_says_that_it_costs(tracked):
    done = tpu(tracked, "train", *TRAIN, *RUN, slice="ACTIVE", training="- 2")
    assert done.returncode == 2
    assert "delete" not in brief(tracked)
    assert "costs money: launch/tpu_vm.sh delete --name=n --zone=z" in done.stderr


def test_a_training_that_crashes_again_and_again_is_left(tracked):
    slice, training = "ACTIVE " * 30, "1 " * 60
    done = tpu(tracked, "train", *TRAIN, *RUN, slice=slice, training=training)
    assert done.returncode == 1
    assert brief(tracked).count("ssh worker.sh start") == 21
    assert "failed 21 times, the last time with status 1" in done.stderr


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("fly", [], "takes train, create"),
        ("create", ["--zone=z"], "--name is missing"),
        ("create", ["--name=n"], "--zone is missing"),
        ("create", ["--name=n", "--zone=z"], "--type is missing"),
        ("create", ["--name=n", "--zone=z", "--type=v9-8"], "--runtime is missing"),
        ("run", ["--name=n", "--zone=z", "--data=/d"], "not in a bucket"),
        ("run", ["--name=n", "--zone=z", "--workdir=r"], "comes after a --"),
        ("train", [*TRAIN, "--", "--config=c.py", "--workdir=r"], "--workdir=gs://BUCKET/RUN"),
        ("train", TRAIN, "--workdir=gs://BUCKET/RUN"),
    ],
)
def test_a_mistaken_flag_is_told(tracked, command, arguments, words):
    done = tpu(tracked, command, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert noted(tracked, "gcloud") == []


@pytest.mark.skipif(not shutil.which("gcloud"), reason="this machine has no gcloud")
def test_gcloud_knows_the_flags(tracked, tmp_path):
    told = tpu(tracked, "train", "--dry-run", "--project=p", *TRAIN, *RUN).stdout
    told += tracked.run("launch/copy_data.sh", "--dry-run", "gs://b/data", tmp_path).stdout
    lines = [line for line in told.splitlines() if line.startswith("gcloud ")]
    wrong = "gcloud compute tpus tpu-vm ssh n --worker=all --workers=all"
    commands = tmp_path / "commands.json"
    commands.write_text(json.dumps([{"command_string": line} for line in {*lines, wrong}]))
    # It parses them and runs none.
    linted = subprocess.run(
        [shutil.which("gcloud"), "meta", "lint-gcloud-commands", f"--commands-file={commands}"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    results = {each["command_string"]: each for each in json.loads(linted.stdout)}
    assert not results.pop(wrong)["success"]
    assert len(results) == len({*lines}) > 8
    assert {each["error_message"] for each in results.values()} == {None}


# Kubernetes


def jobset(name: str) -> dict:
    """A manifest, filled as its first lines say."""
    text = (ROOT / "launch" / f"gke_jobset_{name}.yaml").read_text(encoding="utf-8")
    [manifest] = yaml.safe_load_all(text.replace("$IMAGE", "image").replace("$BUCKET", "bucket"))
    return manifest


def only(values: list) -> dict:
    [value] = values
    return value


@pytest.fixture(params=["gpu", "tpu"])
def manifest(request) -> dict:
    return jobset(request.param)


def job_of(manifest: dict) -> dict:
    return only(manifest["spec"]["replicatedJobs"])["template"]["spec"]


def training_of(manifest: dict) -> dict:
    container = only(job_of(manifest)["template"]["spec"]["containers"])
    assert container["name"] == "training"
    return container


# The fields of the API, of those that may stand at each place; a misspelt one is refused by it.
FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"failurePolicy", "replicatedJobs", "network", "successPolicy", "coordinator"},
    "spec.failurePolicy": {"maxRestarts", "rules", "restartStrategy"},
    "spec.failurePolicy.rules": {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"},
    "spec.replicatedJobs": {"name", "replicas", "template", "dependsOn", "groupName"},
    "spec.replicatedJobs.template": {"metadata", "spec"},
    "spec.replicatedJobs.template.spec": {
        *("parallelism", "completions", "completionMode", "backoffLimit", "podFailurePolicy"),
        "template",
    },
    "spec.replicatedJobs.template.spec.podFailurePolicy.rules": {
        *("action", "onExitCodes", "onPodConditions"),
    },
    "spec.replicatedJobs.template.spec.podFailurePolicy.rules.onExitCodes": {
        *("containerName", "operator", "values"),
    },
    "spec.replicatedJobs.template.spec.template.spec": {
        *("restartPolicy", "serviceAccountName", "terminationGracePeriodSeconds", "nodeSelector"),
        *("initContainers", "containers", "volumes", "tolerations", "hostNetwork", "dnsPolicy"),
    },
    "spec.replicatedJobs.template.spec.template.spec.containers": {
        *("name", "image", "command", "args", "env", "ports", "resources", "volumeMounts"),
    },
    "spec.replicatedJobs.template.spec.template.spec.containers.resources": {"requests", "limits"},
}


def at(value: object, path: str) -> list:
    """What stands at a dotted path, each member of the lists on the way."""
    values = [value]
    for key in filter(None, path.split(".")):
        values = [each[key] for each in values]
        values = [x for each in values for x in (each if isinstance(each, list) else [each])]
    return values


@pytest.mark.parametrize("path", FIELDS)
def test_a_manifest_has_the_fields_of_the_api(manifest, path):
    for value in at(manifest, path):
        assert value.keys() <= FIELDS[path]


def test_a_jobset_restarts_as_one_and_not_after_a_mistake(manifest):
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] >= 100
    rule = only(policy["rules"])
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    job = job_of(manifest)
    # Kubernetes takes no podFailurePolicy where pods may restart by themselves.
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert (job["backoffLimit"], job["completionMode"]) == (0, "Indexed")
    failure = only(job["podFailurePolicy"]["rules"])
    assert failure["action"] == "FailJob"
    codes = {"containerName": "training", "operator": "In", "values": [2]}
    assert failure["onExitCodes"] == codes


def test_a_jobset_has_what_its_containers_name(manifest):
    pod = job_of(manifest)["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["initContainers"] + pod["containers"]:
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() <= volumes
        assert mounts["data"] == "/data"
    copying = only(pod["initContainers"])["command"]
    assert copying == ["gcloud", "storage", "rsync", "gs://bucket/data", "/data", "--recursive"]
    training = training_of(manifest)
    # Not through a shell, which would keep SIGTERM from Python.
    assert training["command"] == ["python", "-m", "skinjax.main"]
    assert (training["image"], training["resources"].keys()) == ("image", {"requests", "limits"})
    assert "--config.data.cache_dir=/data" in training["args"]
    config = only([a for a in training["args"] if a.startswith("--config=")])
    assert (ROOT / config.removeprefix("--config=")).is_file()


def test_the_pods_of_the_gpu_jobset_find_each_other():
    manifest = jobset("gpu")
    job, training = job_of(manifest), training_of(manifest)
    name = manifest["metadata"]["name"]
    workers = only(manifest["spec"]["replicatedJobs"])["name"]
    # A pod's name in the set's network: set, job, number of the job, number of the pod.
    port = only(training["ports"])["containerPort"]
    assert f"--coordinator={name}-{workers}-0-0.{name}:{port}" in training["args"]
    assert f"--num_processes={job['parallelism']}" in training["args"]
    assert "--process_id=$(JOB_COMPLETION_INDEX)" in training["args"]
    assert "--distributed" in training["args"]
    assert job["completions"] == job["parallelism"]
    assert training["resources"]["limits"]["nvidia.com/gpu"] == 8


def test_the_tpu_jobset_has_a_pod_for_each_machine_of_its_slice():
    manifest = jobset("tpu")
    job, training = job_of(manifest), training_of(manifest)
    selector = job["template"]["spec"]["nodeSelector"]
    chips = math.prod(map(int, selector["cloud.google.com/gke-tpu-topology"].split("x")))
    resources = training["resources"]
    assert resources["requests"] == resources["limits"]
    assert job["parallelism"] * resources["limits"]["google.com/tpu"] == chips
    assert job["completions"] == job["parallelism"]
    assert "--distributed" in training["args"]
    exclusive = manifest["metadata"]["annotations"]["alpha.jobset.sigs.k8s.io/exclusive-topology"]
    assert exclusive == "cloud.google.com/gke-nodepool"


def test_the_image_has_what_the_manifests_run():
    lines = (ROOT / "launch" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert {"skinjax", "configs", "pyproject.toml", "constraints.txt"} <= {*copied}
    assert all((ROOT / name).exists() for name in copied)
