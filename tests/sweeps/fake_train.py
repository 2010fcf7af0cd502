"""A stand-in for train.py in tests of sweeps: it writes a run's files at once, and imports nothing."""

import json
import os
import signal
import sys
import time
from pathlib import Path

words = dict(word.split("=", 1) for word in sys.argv[1:])
run = Path(words["hydra.run.dir"].strip("'"))
run.mkdir(parents=True, exist_ok=True)
seed = int(words["seed"])
told = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
(run / "told.json").write_text(json.dumps(told | {"num_threads": words.get("data.num_threads")}))
begun = run / "begun"
if seed == 9 and not begun.exists():  # waits for a signal, and then saves; started again, it goes on
    begun.touch()
    signal.signal(signal.SIGINT, lambda *_: (print("saved"), os._exit(130)))
    signal.signal(signal.SIGTERM, lambda *_: (print("saved"), os._exit(75)))
    print("ready", flush=True)
    time.sleep(60)
if seed == 7:
    (run / "config.json").write_text("{}")
    print("half a line", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
if seed == 8 and not begun.exists():
    begun.touch()
    print("error: the optimizer is wrong\nsome more words", file=sys.stderr)
    sys.exit(1)
numbers = {"val_top1": 50.0 + seed, "val_loss": 1.0, "best_epoch": 1, "epochs": 1, "steps": 1, "seconds": 0.1}
(run / "results.json").write_text(json.dumps(numbers))
