"""Whether the devices are there that workers are to run on."""

import subprocess
import sys
from collections.abc import Sequence

from vlm2vec_service.errors import StartError
from vlm2vec_service.extras import check_installed

ASK = "import torch; print(torch.cuda.device_count(), torch.__version__)"


def check_devices(devices: Sequence[str]) -> None:
    """Raises `StartError` for a device that is not there, and for any where PyTorch is missing.

    PyTorch is asked in a process of its own: the front end never imports it. Where it does not
    answer, the workers will say what is wrong.
    """
    if devices:
        check_installed("torch")
    if all(device == "cpu" for device in devices):
        return
    command = [sys.executable, "-c", ASK]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        return
    count, version = answer.stdout.split()
    there = ["cpu", *(f"cuda:{number}" for number in range(int(count)))]
    for device in devices:
        if (device if device != "cuda" else "cuda:0") not in there:
            raise StartError(
                f"{device} is not there; this machine has {', '.join(there)} (PyTorch {version})",
                "device",
            )
