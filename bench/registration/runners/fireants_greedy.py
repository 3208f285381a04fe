"""FireANTs' greedy registration in pure PyTorch on the CPU. Options: whatever `GreedyRegistration` takes."""

import torch
from fireants.io.image import BatchedImages, FakeBatchedImages, Image
from fireants.registration.greedy import GreedyRegistration
from protocol import finish, measured, read_job

job = read_job()
torch.set_num_threads(job.threads)
fixed, moving = (BatchedImages([Image.load_file(path, device="cpu")]) for path in (job.fixed, job.moving))
labels = BatchedImages([Image.load_file(job.labels, device="cpu")])

with measured() as result:
    registration = GreedyRegistration(fixed_images=fixed, moving_images=moving, **job.options)
    registration.optimize()

labels.interpolate_mode = "nearest"
FakeBatchedImages(registration.evaluate(fixed, labels), fixed).write_image(job.moved_labels)
registration.save_as_ants_transforms(job.file("warp.nii.gz"))
finish(job, result, [job.file("warp.nii.gz")], "fireants", "torch")
