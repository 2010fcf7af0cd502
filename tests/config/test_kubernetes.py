"""containers/kubernetes.yaml: the Job fits its Service and itself, and its command is a valid run."""

import pytest
import yaml

from imgcls.config import compose_run
from imgcls.environment import CONF_DIR
from imgcls.errors import EXIT_REQUEUE, EXIT_USER_MISTAKE

FILE = CONF_DIR.parent / "containers/kubernetes.yaml"


@pytest.mark.skipif(not FILE.exists(), reason="the example is in a checkout alone")
def test_the_example_job_fits_its_service_and_trains_a_valid_run() -> None:
    service, job = yaml.safe_load_all(FILE.read_text())
    assert (service["kind"], job["kind"], job["apiVersion"]) == ("Service", "Job", "batch/v1")
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert "command" not in container  # it would take the place of tini and imgcls, the image's entrypoint
    program, *words = container["args"]
    start = words.index("-m")
    options = dict(word.removeprefix("--").split("=") for word in words[:start])
    assert program == "torchrun"
    on_exit = {rule["action"]: rule["onExitCodes"]["values"] for rule in spec["podFailurePolicy"]["rules"]}
    assert on_exit == {"FailJob": [EXIT_USER_MISTAKE], "Ignore": [EXIT_REQUEUE]}
    assert int(options["nnodes"]) == spec["completions"] == spec["parallelism"]
    assert int(options["nproc-per-node"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert options["node-rank"] == f"$({container['env'][0]['name']})"
    assert options["master-addr"] == f"{name}-0.{service['metadata']['name']}"
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted.keys() == {volume["name"] for volume in pod["volumes"]}
    assert words[start : start + 3] == ["-m", "imgcls", "train"]
    config, run_dir = compose_run(words[start + 3 :])
    assert config.data.root == mounted["imagenet"]
    assert f"{container['workingDir']}/{run_dir}".startswith(mounted["runs"])
