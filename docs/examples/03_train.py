"""Train a network on a folder of images and register with it: `python 03_train.py IMAGES OUTPUT [STEPS]`."""

import subprocess
import sys
from pathlib import Path

import fastreg

images, output = Path(sys.argv[1]), Path(sys.argv[2])
steps = sys.argv[3] if len(sys.argv) > 3 else "2000"

# The command, for that is what resumes, validates and runs under torchrun. `fastreg train --help` has its options.
options = f"--model vm1 --steps {steps} --lr 1e-3 --schedule cosine --window 5 --val-every 0 --workers 0"
train = [sys.executable, "-m", "fastreg", "train", "--images", images, "--output", output, *options.split()]
subprocess.run(train, check=True)

first, second = sorted(images.iterdir())[:2]
result = fastreg.register(first, second, model=output / "model.safetensors")
print(f"{second.name} to {first.name}: {result.seconds:.2f} s")
result.save_moved(output / "moved.nii.gz")
