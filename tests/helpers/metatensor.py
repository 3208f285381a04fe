"""A stand-in for MONAI's MetaTensor."""

import torch


class Meta(torch.Tensor):
    """A MetaTensor: a tensor with an affine and a dictionary."""

    def __new__(cls, data, affine=None, meta=None):
        made = torch.as_tensor(data).as_subclass(cls)
        made.affine, made.meta = torch.as_tensor(affine), dict(meta or {})
        return made

    def detach(self):
        return Meta(super().detach().as_subclass(torch.Tensor), self.affine, self.meta)

    def cpu(self):
        return self

    def as_tensor(self):
        return self.as_subclass(torch.Tensor)
